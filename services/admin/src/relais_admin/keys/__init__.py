"""`relais keys`: the file of API keys."""
