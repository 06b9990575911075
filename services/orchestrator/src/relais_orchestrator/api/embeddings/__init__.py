"""`/v1/embeddings`, `/v1/rerank`, `/v2/rerank`, `/v1/score`, `/v1/classify`."""
