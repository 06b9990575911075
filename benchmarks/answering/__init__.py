"""Parts of `benchmarks.short`: the reference, the client that both servers get, and the report."""
