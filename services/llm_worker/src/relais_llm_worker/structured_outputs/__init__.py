"""Structured outputs: what they cost is found out in a child process before the engine sees them."""
