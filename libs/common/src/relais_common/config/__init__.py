"""Configuration that several services read: API keys, model aliases, remote models."""
