"""Detects an engine that makes no step while it has requests, and names the suspected requests."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

LONGEST_LOOK_S = 2.0
"""The most that one check adds. A longer gap means that this process was frozen, and perhaps its engine too."""


class StallWatch:
    """Checks periodically whether the engine's step count increases.

    A long prefill, or a graph that is captured, is one step: `stall_s` must be longer than any of them takes.

    Args:
        stall_s: how long the engine may make no step while it has requests.

    Attributes:
        quiet_s: how long it has made none.
    """

    def __init__(self, stall_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._stall_s = stall_s
        self._clock = clock
        self._running: dict[object, tuple[str, bool]] = {}
        self._left: dict[object, tuple[str, bool]] = {}
        self._steps = 0
        self._looked_s = clock()
        self.quiet_s = 0.0

    @contextmanager
    def running(self, channel_id: str, *, structured: bool) -> Iterator[None]:
        """Return a context during which the engine has this request.

        Args:
            structured: whether the output is constrained, so that a step may take arbitrarily long.
        """
        one = object()  # of the answers of a job, each is a request
        self._running[one] = channel_id, structured
        try:
            yield
        finally:
            # An unresponsive engine still has an aborted request.
            self._left[one] = self._running.pop(one)

    def look(self, steps: int) -> frozenset[str]:
        """Record the engine's step count. Returns the suspected requests if it is stuck, else none.

        Constrained requests are suspected first. Of several suspects, any may be the cause; some may have been
        aborted since.
        """
        now_s = self._clock()
        since_s, self._looked_s = now_s - self._looked_s, now_s
        if steps != self._steps or not self._running:
            self._steps = steps
            self._left.clear()
            self.quiet_s = 0.0
            return frozenset()
        self.quiet_s += min(since_s, LONGEST_LOOK_S)
        if self.quiet_s < self._stall_s:
            return frozenset()
        suspects = [*self._left.values(), *self._running.values()]
        constrained = frozenset(channel_id for channel_id, structured in suspects if structured)
        return constrained or frozenset(channel_id for channel_id, _ in suspects)

    @property
    def is_worrying(self) -> bool:
        """Return True once a quarter of the time has passed: the engine then gets nothing new."""
        return self.quiet_s >= self._stall_s / 4
