"""The worker that runs language models: one engine, many requests at once."""
