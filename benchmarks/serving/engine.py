"""One set of engine settings, as Relais's worker reads them and as `vllm serve` takes them."""

from __future__ import annotations

import os

from relais_llm_worker.settings import read_settings
from relais_testing.process_stack import DEMO_MODEL, MODEL, VLLM_ON_CPU

Environment = dict[str, str]

# Several engines share the machine's one GPU.
_ON_GPU = {
    "ENGINE": "vllm",
    "VLLM_HF_REPO_ID": str(DEMO_MODEL),
    "SERVED_MODEL_NAME": MODEL,
    "VLLM_GPU_MEMORY_UTILIZATION": "0.28",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
}
_PASSED_ON = ("VLLM_", "HF_", "CUDA_", "OMP_", "LD_LIBRARY_PATH", "SERVED_MODEL_NAME")


def engine_environment() -> Environment:
    """What `scripts/bootstrap.sh` would give, and what the caller's own environment says otherwise."""
    base = _ON_GPU if os.environ.get("RELAIS_DEVICE") == "cuda" else VLLM_ON_CPU
    given = {name: value for name, value in os.environ.items() if name.startswith(_PASSED_ON)}
    environment = {**base, "VLLM_MAX_NUM_SEQS": "64", **given}
    if read_settings(environment).engine.enforce_eager:
        # As Relais's worker sets it for its own engine: what one does not compile, the other does not.
        environment.setdefault("TORCHDYNAMO_DISABLE", "1")
    return environment


def serve_arguments(environment: Environment) -> list[str]:
    """Of `vllm serve`, for the engine that these settings give Relais's worker."""
    engine = read_settings(environment).engine
    options = {
        "served-model-name": engine.served_name,
        "dtype": engine.dtype,
        "max-model-len": engine.max_model_len,
        "max-num-seqs": engine.max_num_seqs,
        "kv-cache-memory-bytes": engine.kv_cache_memory_bytes,
        "tensor-parallel-size": engine.tensor_parallel_size,
        "gpu-memory-utilization": engine.gpu_memory_utilization,
        "download-dir": engine.models_cache_dir,
    }
    arguments = [engine.repo_id]
    for name, value in options.items():
        if value is not None:
            arguments += [f"--{name}", str(value)]
    return [*arguments, "--enforce-eager"] if engine.enforce_eager else arguments
