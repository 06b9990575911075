"""Turns validated requests into queued jobs."""
