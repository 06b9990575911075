"""The library that all Relais services share: job and event types, ports, the Redis protocol."""
