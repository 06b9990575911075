"""Usage by key."""
