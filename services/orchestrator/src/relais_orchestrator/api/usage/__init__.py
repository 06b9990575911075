"""`GET /v1/usage`: what keys took."""
