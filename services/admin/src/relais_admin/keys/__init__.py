"""`relais keys`: make, list and revoke clients' API keys."""
