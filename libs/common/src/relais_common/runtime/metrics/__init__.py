"""What every service counts and measures, and how `/metrics` shows it. docs/metrics.md lists all of it."""
