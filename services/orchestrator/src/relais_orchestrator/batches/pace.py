"""How fast the requests of a batch end."""

from __future__ import annotations

import time
from collections import deque

WINDOW_S = 60.0
LEAST_S = 5.0
"""How long to watch before saying a rate."""


class Pace:
    """The rate of the last minute, from counts that are noted now and then."""

    def __init__(self) -> None:
        self._noted: deque[tuple[float, int]] = deque()

    def note(self, ended: int, *, now_s: float | None = None) -> float | None:
        """Note how many requests have ended, and return requests per second; None while it is too early to say."""
        now_s = time.monotonic() if now_s is None else now_s
        self._noted.append((now_s, ended))
        # One that is older than the window stays, so that the window is whole.
        while len(self._noted) > 1 and self._noted[1][0] <= now_s - WINDOW_S:
            self._noted.popleft()
        since_s, before = self._noted[0]
        watched_s = now_s - since_s
        return None if watched_s < LEAST_S else (ended - before) / watched_s
