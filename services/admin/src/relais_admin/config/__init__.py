"""`relais config`: check all settings of a deployment at once."""
