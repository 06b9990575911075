"""The OpenAI-compatible routes, over the same queue."""
