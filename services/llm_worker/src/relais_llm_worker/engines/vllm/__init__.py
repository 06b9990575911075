"""The engine port over vLLM. Only this package and `structured_outputs.of_vllm` import vLLM."""
