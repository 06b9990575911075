"""The state of each model: its workers and queue. Read from Redis at most once per second."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from relais_common.jobs.errors import StoreUnavailable
from relais_common.jobs.inspection import QueueView
from relais_common.jobs.job import WorkerState
from relais_common.queue.ports import Inspector, WorkerRegistry

FRESH_S = 1.0


@dataclass(frozen=True, slots=True)
class ModelState:
    """The state of one model.

    Attributes:
        state: `ready`: a request would begin at once; `busy`: it would wait for a place; `no_worker`: it would wait
            for a worker that can run it.
        workers: live workers that are not draining and can run it.
        capacity: requests that they run at once.
        max_model_len: the shortest context of its workers; None if unknown.
        parent: the model that this one is an adapter of, as its workers say.
        supports_images: False if all of its workers refuse them; None if unknown.
    """

    state: Literal["ready", "busy", "no_worker"]
    workers: int
    capacity: int
    running: int
    waiting: int
    estimated_wait_s: float | None
    max_model_len: int | None
    parent: str | None
    supports_images: bool | None = None


class ModelStates:
    """Caches the states of all models, and refreshes them when they are old."""

    def __init__(
        self, models: Sequence[str], inspector: Inspector, registry: WorkerRegistry
    ) -> None:
        self._models = models
        self._inspector = inspector
        self._registry = registry
        self._states: dict[str, ModelState] = {}
        self._looked_at_s = float("-inf")
        self._lock = asyncio.Lock()

    async def all(self) -> dict[str, ModelState]:
        """Return the state of each declared model; empty while Redis is unavailable."""
        async with self._lock:
            if time.monotonic() - self._looked_at_s > FRESH_S:
                try:
                    self._states = await self._look()
                except StoreUnavailable:
                    self._states = {}
                # During an outage, too, retry once per second.
                self._looked_at_s = time.monotonic()
            return self._states

    async def _look(self) -> dict[str, ModelState]:
        able = [
            worker
            for worker in await self._registry.alive()
            if not worker.draining and worker.not_ready is None
        ]
        return {
            model: _state(
                await self._inspector.queue(model, top_keys=0),
                [worker for worker in able if worker.model == model],
            )
            for model in self._models
        }


def _state(queue: QueueView, workers: Sequence[WorkerState]) -> ModelState:
    capacity = sum(worker.capacity for worker in workers)
    state: Literal["ready", "busy", "no_worker"] = "ready"
    if not workers:
        state = "no_worker"
    elif queue.waiting or queue.running >= capacity:
        state = "busy"
    return ModelState(
        state=state,
        workers=len(workers),
        capacity=capacity,
        running=queue.running,
        waiting=queue.waiting,
        estimated_wait_s=queue.estimated_wait_s,
        max_model_len=_shortest(worker.max_model_len for worker in workers),
        parent=next((worker.parent for worker in workers if worker.parent), None),
        supports_images=_any(worker.supports_images for worker in workers),
    )


def _any(said: Iterable[bool | None]) -> bool | None:
    answers = set(said)
    if True in answers:
        return True
    return False if answers == {False} else None


def _shortest(lengths: Iterable[int | None]) -> int | None:
    return min((length for length in lengths if length is not None), default=None)
