"""`GET /v1/usage`: usage by key."""
