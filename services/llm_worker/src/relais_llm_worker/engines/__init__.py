"""Models that an engine of this process runs."""
