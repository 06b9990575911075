"""Relais's own routes: a request outlives its connection."""
