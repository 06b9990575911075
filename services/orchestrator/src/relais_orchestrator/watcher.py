"""Saying that requests with `on_disconnect: cancel` still have a reader here.

Should this process die, nobody says so any more, and the reaper ends them.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import AbstractAsyncContextManager

import structlog

from relais_common.errors import StoreUnavailable
from relais_common.ports import JobIntake

log = structlog.get_logger(__name__)

RETRY_S = 0.5


class Watcher:
    """One loop for all streams of this process."""

    def __init__(self, queue: JobIntake, *, lease_s: float) -> None:
        self._queue = queue
        self._lease_s = lease_s
        self._channels: Counter[str] = Counter()

    def watching(self, channel_id: str) -> AbstractAsyncContextManager[None]:
        """Inside, the channel has a reader."""
        return _Watching(self, channel_id)

    async def join(self, channel_id: str) -> None:
        """The channel has one more reader; `leave` must follow."""
        await self._queue.watch(channel_id, lease_s=self._lease_s)
        self._channels[channel_id] += 1

    def leave(self, channel_id: str) -> None:
        """A reader has gone."""
        self._channels[channel_id] -= 1
        if self._channels[channel_id] == 0:
            del self._channels[channel_id]

    async def run(self) -> None:
        renewed = True
        while True:
            # After an outage, this must come before the reapers, which hold still for a worker's lease only.
            await asyncio.sleep(self._lease_s / 3 if renewed else min(RETRY_S, self._lease_s / 3))
            renewed = await self._renew()

    async def _renew(self) -> bool:
        for channel_id in list(self._channels):
            try:
                await self._queue.watch(channel_id, lease_s=self._lease_s)
            except StoreUnavailable:
                log.warning("watch_failed")
                return False
        return True


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
