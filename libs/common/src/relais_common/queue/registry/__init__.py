"""Which workers are alive, and what they serve."""
