"""Requeues dead workers' jobs, and ends jobs without time or readers."""
