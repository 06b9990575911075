"""Bringing back what dead workers held, and ending what ran out of time or readers."""
