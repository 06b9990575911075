"""Models that run on an engine in this process."""
