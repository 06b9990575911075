"""`relais admin`: the operators' view. It reads Redis directly, so it works while no orchestrator runs."""
