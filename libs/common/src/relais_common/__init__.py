"""The library that all Relais services share: job and event types, ports, the Redis protocol."""

__version__ = "0.1.0"
"""The version of Relais: of every package, image and document. `scripts/release.sh` changes it."""
