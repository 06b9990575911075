"""The embedding worker: many requests' texts, in batches through one encoder."""
