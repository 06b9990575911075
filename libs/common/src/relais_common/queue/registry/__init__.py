"""The registry of live workers and their models."""
