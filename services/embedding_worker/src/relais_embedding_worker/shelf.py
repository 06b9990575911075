"""Keeps the models of a worker: loads each at its first use, and evicts the least recently used."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import structlog

from relais_common.jobs.errors import EngineFailed
from relais_common.runtime.garbage import forget_frames
from relais_embedding_worker.batches import Batches, open_batches
from relais_embedding_worker.encoder import Encoder, EncoderInfo
from relais_embedding_worker.settings import Bounds

log = structlog.get_logger(__name__)

RETRY_S = 10.0
"""How long no jobs are taken of a model that could not be loaded: other workers may be able to load it."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model in memory."""

    encoder: Encoder
    batches: Batches


@dataclass(slots=True, eq=False)
class _Kept:
    """One that is loaded, or is being loaded.

    Attributes:
        users: requests that it runs, or that wait for it.
        used: the number of its last use.
        unwanted: set when it is evicted.
    """

    loaded: asyncio.Future[Loaded] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )
    unwanted: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] | None = None
    users: int = 0
    used: int = 0


class Shelf:
    """Lends models. One that is in use is never evicted; requests for others wait until there is room.

    Args:
        load: loads a model, in a thread.
        bounds: `max_model_bytes` bounds the weights in memory. How large a model is becomes known when it is loaded.
            One that is larger than the bound is alone in memory.
    """

    def __init__(
        self, load: Callable[[str], Encoder], bounds: Bounds, group: asyncio.TaskGroup
    ) -> None:
        self._load = load
        self._bounds = bounds
        self._group = group
        self._kept: dict[str, _Kept] = {}
        self._infos: dict[str, EncoderInfo] = {}
        self._failed_at_s: dict[str, float] = {}
        self._uses = itertools.count(1)
        # First come, first served: whoever waits for room is not overtaken by users of what takes it.
        self._turn = asyncio.Lock()
        self._loading = asyncio.Lock()
        self._freed = asyncio.Event()

    def info(self, name: str) -> EncoderInfo | None:
        """Return the properties of a model; None if it was never loaded."""
        return self._infos.get(name)

    def batches(self, name: str) -> Batches | None:
        """Return a model's batches; None if it is not in memory."""
        kept = self._kept.get(name)
        return kept.loaded.result().batches if kept is not None and kept.loaded.done() else None

    @property
    def is_making_room(self) -> bool:
        """Return whether a request, or a model just loaded, waits for others to be evicted."""
        return self._turn.locked()

    def has_failed(self, name: str) -> bool:
        """Return whether a model could not be loaded in the last `RETRY_S`."""
        failed_at_s = self._failed_at_s.get(name)
        return failed_at_s is not None and time.monotonic() < failed_at_s + RETRY_S

    @asynccontextmanager
    async def lend(self, name: str) -> AsyncIterator[Loaded]:
        """Yield a model, which stays in memory during the context.

        Raises:
            EngineFailed: it cannot be loaded. The next request tries again.
        """
        async with self._turn:
            kept = self._kept.get(name)
            if kept is None:
                await self._make_room(name)
                kept = self._kept[name] = _Kept()
                kept.task = self._group.create_task(self._keep(name, kept))
            kept.users += 1
        kept.used = next(self._uses)
        try:
            # Another request may wait for it, too, when this one is cancelled.
            yield await asyncio.shield(kept.loaded)
        finally:
            kept.users -= 1
            self._freed.set()

    async def _keep(self, name: str, kept: _Kept) -> None:
        """Load a model and run its batches until it is unwanted."""
        try:
            async with self._loading:
                log.info("model_loading", model=name)
                encoder = await asyncio.to_thread(self._load, name)
        except Exception as error:
            log.exception("model_load_failed", model=name)
            # Half a model would stay in memory with it.
            forget_frames(error)
            self._failed_at_s[name] = time.monotonic()
            # It may have been evicted meanwhile, and another one may be there.
            if self._kept.get(name) is kept:
                del self._kept[name]
            kept.loaded.set_exception(EngineFailed("the model of this request could not be loaded"))
            # Nobody may wait for it any more.
            kept.loaded.exception()
            return
        self._infos[name] = encoder.info
        self._failed_at_s.pop(name, None)
        log.info("model_loaded", model=name, megabytes=round(encoder.info.weight_bytes / 1e6))
        async with open_batches(
            encoder,
            max_batch_tokens=self._bounds.max_batch_tokens or encoder.info.batch_tokens,
            max_wait_s=self._bounds.max_wait_s,
        ) as batches:
            kept.loaded.set_result(Loaded(encoder, batches))
            # Its size was not known before.
            self._group.create_task(self._trim(name, kept))
            await kept.unwanted.wait()

    async def _trim(self, name: str, kept: _Kept) -> None:
        async with self._turn:
            # Whoever had the turn before may have evicted it.
            if self._kept.get(name) is kept:
                await self._make_room(name)

    async def _make_room(self, name: str) -> None:
        """Evict other idle models, the least recently used first, until this one fits; wait for those in use."""
        most = self._bounds.max_model_bytes
        while most is not None and (others := self._kept.keys() - {name}):
            known = {name, *others} & self._infos.keys()
            if sum(self._infos[one].weight_bytes for one in known) <= most:
                return
            idle = [one for one in others if not self._kept[one].users]
            if idle:
                await self._evict(min(idle, key=lambda one: self._kept[one].used))
            else:
                self._freed.clear()
                await self._freed.wait()

    async def _evict(self, name: str) -> None:
        log.info("model_evicted", model=name)
        kept = self._kept.pop(name)
        kept.unwanted.set()
        assert kept.task is not None
        await asyncio.wait({kept.task})

    def close(self) -> None:
        """Let every model go."""
        for kept in self._kept.values():
            kept.unwanted.set()


@asynccontextmanager
async def open_shelf(load: Callable[[str], Encoder], bounds: Bounds) -> AsyncIterator[Shelf]:
    """Yield a shelf whose models run inside the context."""
    async with asyncio.TaskGroup() as group:
        shelf = Shelf(load, bounds, group)
        try:
            yield shelf
        finally:
            shelf.close()
