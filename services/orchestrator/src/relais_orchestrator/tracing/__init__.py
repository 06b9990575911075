"""Traces of ended requests, from Redis to MongoDB."""
