"""`relais config`: validates settings before anything starts with them."""
