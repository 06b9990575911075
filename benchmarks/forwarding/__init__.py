"""Parts of `benchmarks.gateways`: the upstream, the sides in front of it, the client of the streams, the report."""
