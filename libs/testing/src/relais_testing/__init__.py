"""What tests share: a real Redis-compatible server, builders, ways to wait."""
