"""The embedding worker, which batches the texts of many requests through one encoder."""
