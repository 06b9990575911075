"""Parts of `benchmarks.prefixes`: workers with prefix caches, simulated and real."""
