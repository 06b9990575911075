"""Authentication and authorisation: keys, signed URLs, channel ownership, limits."""
