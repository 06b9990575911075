"""Finds Redis keys without expiry."""

from __future__ import annotations

import re

from redis import Redis

# Bounded by the work that waits or runs, by the number of workers, or single.
MAY_STAY = re.compile(
    r"relais:\{[^}]+\}:"
    r"(counts|open|running|held|fading(:\d+)?|traces"
    r"|inflight|deadlines|watched|suspects|turns:(high|normal|low|batch)|queue:(high|normal|low|batch):.+)"
    r"|relais:workers|relais:signing-secret",
    re.DOTALL,
)


def keys_without_expiry(redis: Redis) -> list[str]:
    """Return keys that neither expire nor are allowed to stay."""
    names = [name.decode() for name in redis.scan_iter(count=1000)]
    return [
        name for name in sorted(names) if not MAY_STAY.fullmatch(name) and redis.ttl(name) == -1
    ]
