"""Connections to Redis: one server, one behind Sentinels, or a cluster."""
