"""`relais admin`: the operators' view, straight from Redis; it works while no orchestrator runs."""
