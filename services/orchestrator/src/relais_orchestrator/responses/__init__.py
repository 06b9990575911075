"""Responses in MongoDB."""
