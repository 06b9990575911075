"""What every Relais service shares: job and event types, ports, the Redis protocol."""
