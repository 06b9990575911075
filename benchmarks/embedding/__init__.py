"""Parts of `benchmarks.embeddings`: texts, the two references, the clients, and the report."""
