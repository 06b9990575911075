"""Parts of `benchmarks.relay`: the two references, the client that all three servers get, and its report."""
