"""Traces on their way from Redis to the database."""
