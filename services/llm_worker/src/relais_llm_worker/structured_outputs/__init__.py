"""Structured outputs. A child process tries each specification before the engine sees it."""
