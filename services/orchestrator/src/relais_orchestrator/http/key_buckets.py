"""A token bucket for each key of this process."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable

from relais_common.jobs.limits import Bucket

MAX_KEYS = 10_000


class KeyBuckets:
    """Token buckets of one size; the least recently used ones are forgotten beyond `MAX_KEYS`."""

    def __init__(self, per_minute: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_minute = per_minute
        self._clock = clock
        self._used: OrderedDict[str, tuple[float, float]] = OrderedDict()
        """What each key has used, and when."""

    def of(self, key_id: str) -> Bucket:
        """Return the key's bucket at this instant."""
        used, at_s = self._used.get(key_id, (0.0, 0.0))
        left = max(0.0, used - (self._clock() - at_s) * self._per_minute / 60)
        return Bucket(self._per_minute, left)

    def charge(self, key_id: str, amount: float) -> None:
        """Use up this much of the key's bucket."""
        used = self.of(key_id).used + amount
        self._used[key_id] = used, self._clock()
        self._used.move_to_end(key_id)
        if len(self._used) > MAX_KEYS:
            self._used.popitem(last=False)
