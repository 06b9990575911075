"""A token bucket for each key of this process."""

from __future__ import annotations

import time
from collections.abc import Callable

from relais_common.jobs.limits import Bucket

MAX_KEYS = 10_000


class KeyBuckets:
    """Token buckets of one size; the least recently used ones are forgotten beyond `MAX_KEYS`."""

    def __init__(self, per_minute: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_minute = per_minute
        self._clock = clock
        self._used: dict[str, tuple[float, float]] = {}
        """What each key has used, and when."""

    def of(self, key_id: str) -> Bucket:
        """Return the key's bucket at this instant."""
        used, at_s = self._used.get(key_id, (0.0, 0.0))
        left = max(0.0, used - (self._clock() - at_s) * self._per_minute / 60)
        return Bucket(self._per_minute, left)

    def charge(self, key_id: str, amount: float) -> None:
        """Use up this much of the key's bucket."""
        used = self.of(key_id).used + amount
        self._used.pop(key_id, None)
        self._used[key_id] = used, self._clock()
        if len(self._used) > MAX_KEYS:
            self._used = {key: kept for key, kept in self._used.items() if self.of(key).used}
            while len(self._used) > MAX_KEYS:
                del self._used[next(iter(self._used))]
