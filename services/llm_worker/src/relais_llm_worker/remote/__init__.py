"""Models behind servers with OpenAI's API: vLLM, TGI, Ollama, llama.cpp."""
