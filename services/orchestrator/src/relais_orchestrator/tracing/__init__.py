"""Moves traces of ended requests from Redis to MongoDB."""
