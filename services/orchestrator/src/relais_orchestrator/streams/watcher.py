"""Saying that requests with `on_disconnect: cancel` still have a reader here.

Should this process die, nobody says so any more, and the reaper ends them. Should it only stall, or be frozen with its
machine, its presence says that it may still have readers, and the reaper leaves them alone.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager, contextmanager

import structlog

from relais_common.jobs.channels import channel_model
from relais_common.jobs.errors import StoreUnavailable
from relais_common.queue.ports import JobIntake, Presence
from relais_common.runtime.backoff import Backoff

log = structlog.get_logger(__name__)

RETRY_S = 0.5
UNWATCHED_AT_ONCE = 500


class Watcher:
    """One loop for all streams of this process.

    Attributes:
        watcher_id: what the store calls this process.
    """

    def __init__(self, queue: JobIntake, *, lease_s: float) -> None:
        self._queue = queue
        self._lease_s = lease_s
        self._channels: Counter[str] = Counter()
        self._left: set[str] = set()
        self.watcher_id = secrets.token_hex(8)

    def watching(self, channel_id: str) -> AbstractAsyncContextManager[None]:
        """Inside, the channel has a reader."""
        return _Watching(self, channel_id)

    @contextmanager
    def accepting(self, channel_id: str) -> Iterator[None]:
        """Inside, the client that asks for this channel counts as its reader; the acceptance itself tells the store."""
        self._join(channel_id)
        try:
            yield
        finally:
            self.leave(channel_id)

    async def join(self, channel_id: str) -> None:
        """The channel has one more reader; `leave` must follow."""
        self._join(channel_id)
        try:
            await self._queue.watch(channel_id, lease_s=self._lease_s, watcher_id=self.watcher_id)
        except BaseException:
            self.leave(channel_id)
            raise

    def _join(self, channel_id: str) -> None:
        self._channels[channel_id] += 1
        self._left.discard(channel_id)

    def leave(self, channel_id: str) -> None:
        """A reader has gone. The store hears of the last one in the next pass, before the lease is over."""
        self._channels[channel_id] -= 1
        if self._channels[channel_id] == 0:
            del self._channels[channel_id]
            self._left.add(channel_id)

    async def run(self) -> None:
        renewed = True
        while True:
            # After an outage, this must come before the reapers, which hold still for a worker's lease only.
            await asyncio.sleep(self._lease_s / 3 if renewed else min(RETRY_S, self._lease_s / 3))
            renewed = await self._renew()

    async def _renew(self) -> bool:
        try:
            for channel_id in list(self._channels):
                await self._queue.watch(
                    channel_id, lease_s=self._lease_s, watcher_id=self.watcher_id
                )
            await self._unwatch()
        except StoreUnavailable:
            log.warning("watch_renewal_failed")
            return False
        return True

    async def _unwatch(self) -> None:
        by_model: defaultdict[str, list[str]] = defaultdict(list)
        for channel_id in self._left:
            by_model[channel_model(channel_id)].append(channel_id)
        for channel_ids in by_model.values():
            for at in range(0, len(channel_ids), UNWATCHED_AT_ONCE):
                # Without those that have a reader again, who has said so since.
                batch = [
                    one for one in channel_ids[at : at + UNWATCHED_AT_ONCE] if one in self._left
                ]
                await self._queue.unwatch(batch, watcher_id=self.watcher_id)
                self._left.difference_update(batch)


async def stay_present(presence: Presence, model: str, watcher_id: str) -> None:
    """Have the store see that this process exists, over one connection after another."""
    backoff = Backoff()
    while True:
        try:
            async with presence.present(model, watcher_id) as lost:
                backoff.reset()
                await lost()
        except StoreUnavailable as error:
            log.warning("presence_lost", model=model, error=str(error))
        await backoff.pause()


class _Watching:
    """One reader's time on a channel. No generator: its frame would cost each open stream 0.6 KB."""

    __slots__ = ("_channel_id", "_watcher")

    def __init__(self, watcher: Watcher, channel_id: str) -> None:
        self._watcher = watcher
        self._channel_id = channel_id

    async def __aenter__(self) -> None:
        await self._watcher.join(self._channel_id)

    async def __aexit__(self, *_: object) -> None:
        self._watcher.leave(self._channel_id)
