"""Parts of `benchmarks.batch`: a batch under kills, what it costs others, and vLLM's own batch runner beside it."""
