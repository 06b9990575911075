"""Batches: their state in MongoDB, and the loops that run them under a lease."""
