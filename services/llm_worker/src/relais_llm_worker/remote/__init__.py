"""Models that run already, behind servers that speak OpenAI's API: vLLM, TGI, Ollama, llama.cpp."""
