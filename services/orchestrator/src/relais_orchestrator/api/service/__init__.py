"""Probes, and the document of all routes."""
