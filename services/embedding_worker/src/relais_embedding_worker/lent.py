"""Runs the jobs of a model that is in memory only when it is needed."""

from __future__ import annotations

from collections.abc import Callable, Collection

from relais_common.jobs.events import Terminal
from relais_common.worker.consumer import Handler
from relais_common.worker.held import HeldJob
from relais_embedding_worker.handler import MOST_PER_TAKE
from relais_embedding_worker.settings import Bounds
from relais_embedding_worker.shelf import Loaded, Shelf


class LentHandler:
    """Borrows a model from the shelf for each job.

    Args:
        make_handler: returns what runs jobs on a loaded model.
    """

    def __init__(
        self, shelf: Shelf, name: str, make_handler: Callable[[Loaded], Handler], bounds: Bounds
    ) -> None:
        self._shelf = shelf
        self._name = name
        self._make_handler = make_handler
        self._bounds = bounds

    def room(self, held: int) -> int:
        if self._shelf.has_failed(self._name):
            return 0
        if self._shelf.is_making_room or self._shelf.batches(self._name) is None:
            # Until the model is loaded, or has its turn, further jobs stay where other workers can take them.
            return 1 - held
        return min(MOST_PER_TAKE, self._bounds.max_requests - held)

    def enough_of(self, held: Collection[HeldJob]) -> Collection[str]:
        batches = self._shelf.batches(self._name)
        return () if batches is None else batches.keys_with(self._bounds.max_queued_tokens)

    def can_preempt(self, held: HeldJob) -> bool:
        return False

    async def handle(self, held: HeldJob) -> Terminal:
        async with self._shelf.lend(self._name) as loaded:
            return await self._make_handler(loaded).handle(held)
