"""Models behind servers with OpenAI's API for embeddings, and Jina's or TEI's for reranking."""
