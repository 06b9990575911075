"""The worker that runs language models: one engine, many concurrent requests."""
