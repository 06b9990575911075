"""Parts of `benchmarks.serve`: the peer and its settings, two kinds of clients, and the report."""
