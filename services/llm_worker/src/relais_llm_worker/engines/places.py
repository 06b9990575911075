"""The places of one engine, shared by the models that it serves: its own, and adapters of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

ASK_EVERY_S = 1.0
"""How long a model goes without an offer until it counts as one that wants more: its queue may have filled since."""


@dataclass(slots=True)
class _Share:
    """What one model has of the places.

    Attributes:
        running: jobs of it that the engine has.
        held: jobs that its worker held when it last asked for room.
        ended: jobs that have ended since.
        offered: the room that it was given then.
        offered_s: when it was last given any.
        wants_more: it took all that it was given.
    """

    running: int = 0
    held: int = 0
    ended: int = 0
    offered: int = 0
    offered_s: float = 0.0
    wants_more: bool = False


class Places:
    """Divides an engine's places among models.

    One place is kept for each model that has none, so that its first request need not wait for another model's
    to end. Beyond that, places that become free go to the models that want more and have the fewest.

    Args:
        count: at least one for each model.
    """

    def __init__(
        self,
        models: Collection[str],
        count: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock = clock
        self._count = count
        self._shares = {model: _Share() for model in models}

    @contextmanager
    def running(self, model: str) -> Iterator[None]:
        """Return a context during which the model has a place."""
        share = self._shares[model]
        share.running += 1
        try:
            yield
        finally:
            share.running -= 1
            share.ended += 1

    def used_by_others(self, model: str) -> int:
        """Return how many places the other models have."""
        return sum(share.running for name, share in self._shares.items() if name != model)

    def room(self, model: str, held: int) -> int:
        """Return how many more jobs of a model may begin now, while its worker holds `held`."""
        share = self._shares[model]
        if share.offered:
            share.wants_more = held - share.held + share.ended >= share.offered
            share.offered_s = self._clock()
        elif self._clock() - share.offered_s >= ASK_EVERY_S:
            share.wants_more = True
        others = [other for name, other in self._shares.items() if name != model]
        kept = sum(not other.running for other in others)
        free = self._count - held - self.used_by_others(model) - kept
        if any(other.wants_more and other.running < held for other in others):
            free = 0
        share.held, share.ended, share.offered = held, 0, max(free, 0)
        return share.offered
