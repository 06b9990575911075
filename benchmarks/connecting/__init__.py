"""Parts of `benchmarks/connections.py`."""
