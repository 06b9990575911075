"""Reports that requests with `on_disconnect: cancel` still have a reader here.

If this process dies, the reports stop and the reaper ends the requests. If it only stalls, or is frozen with its
machine, its presence shows that it may still have readers, and the reaper leaves the requests alone.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager, contextmanager

import structlog

from relais_common.jobs.channels import channel_queue, queue_model
from relais_common.jobs.errors import StoreUnavailable
from relais_common.queue.ports import JobIntake, Presence
from relais_common.runtime.backoff import Backoff

log = structlog.get_logger(__name__)

RETRY_S = 0.5
UNWATCHED_AT_ONCE = 500


class Watcher:
    """Renews the watch leases of all streams of this process in one loop.

    Attributes:
        watcher_id: this process's id in the store.
    """

    def __init__(self, queue: JobIntake, *, lease_s: float) -> None:
        self._queue = queue
        self._lease_s = lease_s
        self._channels: Counter[str] = Counter()
        self._left: set[str] = set()
        self.watcher_id = secrets.token_hex(8)

    def watching(
        self, channel_id: str, *, is_told: bool = False
    ) -> AbstractAsyncContextManager[None]:
        """Return a context in which the channel has a reader.

        Args:
            is_told: the store knows it already, since the acceptance that has just informed it.
        """
        return _Watching(self, channel_id, is_told=is_told)

    @contextmanager
    def accepting(self, channel_id: str) -> Iterator[None]:
        """Count the submitting client as a reader inside the context. `enqueue` itself informs the store."""
        self._join(channel_id)
        try:
            yield
        finally:
            self.leave(channel_id)

    async def join(self, channel_id: str, *, is_told: bool) -> None:
        """Add a reader to the channel; `leave` must follow."""
        self._join(channel_id)
        if is_told:
            return
        try:
            await self._queue.watch(channel_id, lease_s=self._lease_s, watcher_id=self.watcher_id)
        except BaseException:
            self.leave(channel_id)
            raise

    def _join(self, channel_id: str) -> None:
        self._channels[channel_id] += 1
        self._left.discard(channel_id)

    def leave(self, channel_id: str) -> None:
        """Remove a reader. If it was the last, the next pass informs the store before the lease expires."""
        self._channels[channel_id] -= 1
        if self._channels[channel_id] == 0:
            del self._channels[channel_id]
            self._left.add(channel_id)

    async def run(self) -> None:
        """Renew the leases of watched channels for ever."""
        renewed = True
        while True:
            # After an outage, this must run before the reapers, which pause for a worker's lease only.
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
        by_queue: defaultdict[str, list[str]] = defaultdict(list)
        for channel_id in self._left:
            by_queue[channel_queue(channel_id)].append(channel_id)
        for channel_ids in by_queue.values():
            for at in range(0, len(channel_ids), UNWATCHED_AT_ONCE):
                # Skip channels that have a reader again, which has been reported since.
                batch = [
                    one for one in channel_ids[at : at + UNWATCHED_AT_ONCE] if one in self._left
                ]
                await self._queue.unwatch(batch, watcher_id=self.watcher_id)
                self._left.difference_update(batch)


async def stay_present(presence: Presence, queue: str, *, watcher_id: str) -> None:
    """Keep a subscription open that shows the store that this process exists, and reopen it when it breaks."""
    backoff = Backoff()
    while True:
        try:
            async with presence.present(queue, watcher_id) as lost:
                backoff.reset()
                await lost()
        except StoreUnavailable as error:
            log.warning("presence_lost", model=queue_model(queue), error=str(error))
        await backoff.pause()


class _Watching:
    """The context of one reader of a channel. Not a generator: its frame would cost each open stream 0.6 KB."""

    __slots__ = ("_channel_id", "_is_told", "_watcher")

    def __init__(self, watcher: Watcher, channel_id: str, *, is_told: bool) -> None:
        self._watcher = watcher
        self._channel_id = channel_id
        self._is_told = is_told

    async def __aenter__(self) -> None:
        await self._watcher.join(self._channel_id, is_told=self._is_told)

    async def __aexit__(self, *_: object) -> None:
        self._watcher.leave(self._channel_id)
