"""`relais keys`: manages the file of API keys."""
