"""Over which queues each model is spread, as this process knows it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any

import structlog

from relais_common.jobs.channels import queue_of
from relais_common.jobs.errors import StoreUnavailable
from relais_common.queue.ports import WorkerRegistry
from relais_common.runtime.backoff import Backoff

log = structlog.get_logger(__name__)

LOOK_EVERY_S = 2.0
NOTE_EVERY_S = 3600.0


class Shards:
    """Learns from the store which queues there are, and tells it of those that this process fills.

    Queues only become more in the life of a process: what is left in one that nobody fills any more is served, too.

    Args:
        filled: over how many queues this process spreads each model's requests; 0 if it accepts none.

    Attributes:
        queues: the queues of all models; grows in place.
    """

    def __init__(self, registry: WorkerRegistry, filled: Mapping[str, int]) -> None:
        self._registry = registry
        self._filled = filled
        self._grown = asyncio.Event()
        self._note_at_s = dict.fromkeys(filled, 0.0)
        self._numbers: dict[str, frozenset[int]] = {
            model: frozenset({max(1, number)}) for model, number in filled.items()
        }
        self.queues: list[str] = []
        self._extend()

    def filled(self, model: str) -> int:
        """Return over how many queues this process spreads the model's requests."""
        return self._filled[model]

    def numbers(self, model: str) -> frozenset[int]:
        """Return every number of queues over which the model's requests may have been spread."""
        return self._numbers[model]

    def of(self, model: str) -> Sequence[str]:
        """Return the queues of a model; of one that this process does not know, its first."""
        return [queue_of(model, shard) for shard in range(max(self._numbers.get(model, (1,))))]

    async def look(self) -> None:
        """Tell the store and learn from it, once. Raises StoreUnavailable, after all models that can be looked at."""
        for error in (await self._look()).values():
            raise error

    async def announce(self) -> None:
        """Do so before this process accepts anything. Raises StoreUnavailable for models that it spreads, no others."""
        for model, error in (await self._look()).items():
            if self._filled[model] > 1:
                raise error

    async def _look(self) -> dict[str, BaseException]:
        looks = map(self._look_at, self._filled)
        outcomes = await asyncio.gather(*looks, return_exceptions=True)
        told = zip(self._filled, outcomes, strict=True)
        return {model: error for model, error in told if error is not None}

    async def _look_at(self, model: str) -> None:
        now_s, number = time.monotonic(), self._filled[model]
        is_due = self._note_at_s[model] <= now_s
        found = await self._registry.shards(model)
        if number and (is_due or number not in found):
            await self._registry.note_shards(model, number)
        if is_due:
            self._note_at_s[model] = now_s + NOTE_EVERY_S
        if not found <= self._numbers[model]:
            self._numbers[model] |= found
            self._extend()

    async def run(self) -> None:
        """Look now and then, for ever."""
        backoff = Backoff()
        while True:
            try:
                await self.look()
                backoff.reset()
                await asyncio.sleep(LOOK_EVERY_S)
            except StoreUnavailable:
                log.debug("shards_unavailable")
                await backoff.pause()

    async def run_each(
        self, run: Callable[[str], Coroutine[Any, Any, None]], stop: asyncio.Event
    ) -> None:
        """Run a loop for each queue, also for those that come later, until all that began before `stop` have ended."""
        begun: set[str] = set()
        async with asyncio.TaskGroup() as group:
            stopping = group.create_task(stop.wait())
            while not stop.is_set():
                self._grown.clear()
                for queue in self.queues:
                    if queue not in begun:
                        begun.add(queue)
                        group.create_task(run(queue))
                grown = group.create_task(self._grown.wait())
                await asyncio.wait({grown, stopping}, return_when=asyncio.FIRST_COMPLETED)
                grown.cancel()

    def _extend(self) -> None:
        known = set(self.queues)
        self.queues += [
            queue for model in self._numbers for queue in self.of(model) if queue not in known
        ]
        self._grown.set()
