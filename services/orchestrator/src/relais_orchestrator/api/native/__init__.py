"""The native API, in which a request outlives its connection."""
