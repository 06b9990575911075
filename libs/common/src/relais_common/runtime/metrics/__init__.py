"""Metrics of all services, and their exposition at `/metrics`. docs/metrics.md lists them."""
