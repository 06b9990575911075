"""Models behind servers with OpenAI's API for embeddings, Jina's or TEI's for reranking, and vLLM's for classes."""
