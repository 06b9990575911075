"""Servers with OpenAI's API that run models for a worker: their places, state, refusals and tries."""
