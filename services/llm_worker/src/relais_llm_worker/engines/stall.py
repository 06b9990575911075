"""Seeing that an engine makes no step while it has requests, and saying which of them may be why."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

LONGEST_LOOK_S = 2.0
"""The most that one look adds. More time between two means that this process stood still, and perhaps its engine."""


class StallWatch:
    """Looks now and then whether the engine's count of steps moves.

    A long prefill, or a graph that is captured, is one step: `stall_s` must be longer than any of them takes.

    Args:
        stall_s: how long the engine may make no step while it has requests.

    Attributes:
        quiet_s: for how long it has made none.
    """

    def __init__(self, stall_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._stall_s = stall_s
        self._clock = clock
        self._running: dict[str, bool] = {}
        self._left: dict[str, bool] = {}
        self._steps = 0
        self._looked_s = clock()
        self.quiet_s = 0.0

    @contextmanager
    def running(self, channel_id: str, *, structured: bool) -> Iterator[None]:
        """The engine has this request while the context lasts.

        Args:
            structured: the request's output is constrained, so that each of its steps may cost anything.
        """
        self._running[channel_id] = structured
        try:
            yield
        finally:
            # An engine that is deaf to its abort still has it.
            self._left[channel_id] = self._running.pop(channel_id)

    def look(self, steps: int) -> frozenset[str]:
        """Take in the engine's count of steps. Returns the requests that may be why it is stuck; none while it is not.

        Constrained requests are suspected first. Of several suspects nobody can say which one it is; some may have been
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
        suspects = self._left | self._running
        return frozenset(one for one in suspects if suspects[one]) or frozenset(suspects)

    @property
    def is_worrying(self) -> bool:
        """True once a quarter of the time is over: nothing new is given to the engine."""
        return self.quiet_s >= self._stall_s / 4
