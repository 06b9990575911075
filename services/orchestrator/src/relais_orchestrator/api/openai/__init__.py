"""The OpenAI-compatible routes: the same queue in OpenAI's shapes."""
