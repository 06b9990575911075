"""`relais config`: settings looked at before anything starts with them."""
