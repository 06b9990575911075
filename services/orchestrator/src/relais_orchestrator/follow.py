"""Following a channel: everything that happened, then everything that happens, in order, once each.

The log is the truth. Live messages only spare reading it: they are trimmed to what is new, and after a gap, a
lost connection, or a silence the log is read again.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

import structlog

from relais_common.backoff import Backoff
from relais_common.errors import StoreUnavailable
from relais_common.ports import EventLog, LiveBatch, LiveBus, Subscription
from relais_common.wire.codec import TERMINAL_NAMES

log = structlog.get_logger(__name__)

PAGE = 256


def is_terminal(line: bytes) -> bool:
    """Whether this encoded event is a channel's last."""
    return line.partition(b" ")[0] in TERMINAL_NAMES


class Follower:
    """Reads channels for clients.

    Args:
        idle_s: silence after which `follow` gives None, so that the caller can keep its connection alive.
    """

    def __init__(self, event_log: EventLog, live: LiveBus, *, idle_s: float) -> None:
        self._log = event_log
        self._live = live
        self._idle_s = idle_s

    async def follow(self, channel_id: str, after: int) -> AsyncGenerator[LiveBatch | None]:
        """Batches of events with numbers `after + 1`, ... up to the terminal one; None in silences.

        Redis being away is a long silence.
        """
        backoff = Backoff()
        position = after
        while True:
            try:
                async with (
                    self._live.subscribe(channel_id) as subscription,
                    aclosing(self._follow_connected(channel_id, position, subscription)) as batches,
                ):
                    async for batch in batches:
                        backoff.reset()
                        if batch is not None:
                            position = batch.first_seq + len(batch.lines) - 1
                        yield batch
                return
            except StoreUnavailable:
                log.debug("follow_interrupted", channel_id=channel_id)
                yield None
                await backoff.pause()

    async def _follow_connected(
        self, channel_id: str, position: int, subscription: Subscription
    ) -> AsyncGenerator[LiveBatch | None]:
        while True:
            lines = await self._log.read(channel_id, after=position, limit=PAGE)
            if lines:
                yield LiveBatch(position + 1, lines)
                position += len(lines)
                if is_terminal(lines[-1]):
                    return
                continue
            while (batch := await subscription.next(self._idle_s)) is not None:
                fresh = batch.lines[max(0, position + 1 - batch.first_seq) :]
                if batch.first_seq > position + 1:
                    break
                if fresh:
                    yield LiveBatch(position + 1, fresh)
                    position += len(fresh)
                    if is_terminal(fresh[-1]):
                        return
            else:
                yield None
