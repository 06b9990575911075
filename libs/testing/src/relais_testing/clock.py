"""A clock that a test sets."""

from __future__ import annotations


class Clock:
    """A clock that stands still until the test changes `now_s`. Replaces a clock function, or the module `time`."""

    def __init__(self, now_s: float = 1000.0) -> None:
        self.now_s = now_s

    def __call__(self) -> float:
        return self.now_s

    monotonic = __call__
