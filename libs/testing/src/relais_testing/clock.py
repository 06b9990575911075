"""A clock that a test owns."""

from __future__ import annotations


class Clock:
    """Stands still until the test moves `now_s`. Takes the place of a clock's function, or of the module `time`."""

    def __init__(self, now_s: float = 1000.0) -> None:
        self.now_s = now_s

    def __call__(self) -> float:
        return self.now_s

    monotonic = __call__
