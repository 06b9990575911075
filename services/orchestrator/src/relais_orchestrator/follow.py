"""Following a channel: everything that happened, then everything that happens, in order, once each.

The log is the truth. Live messages only spare reading it: they are trimmed to what is new, and after a gap, a
lost connection, or a silence the log is read again.

A Redis that lost its last second comes back with an older log. Each reading therefore begins at the last event that was
given: only where the log has that very line, at that number, does what follows belong to it.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

import structlog

from relais_common.backoff import Backoff
from relais_common.errors import LogRewound, StoreUnavailable
from relais_common.ports import EventLog, LiveBatch, LiveBus, Subscription
from relais_common.wire.codec import TERMINAL_NAMES

log = structlog.get_logger(__name__)

PAGE = 256


def is_terminal(line: bytes) -> bool:
    """Whether this encoded event is a channel's last."""
    return line.partition(b" ")[0] in TERMINAL_NAMES


class _Place:
    """How far a reader is: the number of the last event it was given, and its line where that is known."""

    def __init__(self, position: int) -> None:
        self.position = position
        self._line: bytes | None = None

    def advance(self, lines: list[bytes]) -> LiveBatch:
        """Go on by these lines; they are what the reader gets next."""
        batch = LiveBatch(self.position + 1, lines)
        self.position += len(lines)
        self._line = lines[-1]
        return batch

    def check(self, line: bytes) -> None:
        """Compare the log's line of this number. The first one seen after a resumption counts as the reader's.

        Raises:
            LogRewound: it is another one.
        """
        if self._line is not None and line != self._line:
            raise LogRewound("the log lost its last events, and what took their place differs")
        self._line = line


class Follower:
    """Reads channels for clients.

    Args:
        idle_s: silence after which `follow` gives None, so that the caller can keep its connection alive.
        delivered: told, of live events, how many seconds after their receipt their reader was done with them.
    """

    def __init__(
        self,
        event_log: EventLog,
        live: LiveBus,
        *,
        idle_s: float,
        delivered: Callable[[float], None] = lambda _: None,
    ) -> None:
        self._log = event_log
        self._live = live
        self._idle_s = idle_s
        self._delivered = delivered

    async def follow(self, channel_id: str, after: int) -> AsyncGenerator[LiveBatch | None]:
        """Batches of events with numbers `after + 1`, ... up to the terminal one; None in silences.

        Redis being away is a long silence, and so is a log shorter than what was given, while it may grow again.

        Raises:
            LogRewound: the log has grown again, to something else.
        """
        backoff = Backoff()
        place = _Place(after)
        while True:
            try:
                async with (
                    self._live.subscribe(channel_id) as subscription,
                    aclosing(self._follow_connected(channel_id, place, subscription)) as batches,
                ):
                    async for batch in batches:
                        backoff.reset()
                        yield batch
                return
            except StoreUnavailable:
                log.debug("follow_interrupted", channel_id=channel_id)
                yield None
                await backoff.pause()

    async def _follow_connected(
        self, channel_id: str, place: _Place, subscription: Subscription
    ) -> AsyncGenerator[LiveBatch | None]:
        while True:
            lines = await self._log.read(
                channel_id, after=max(0, place.position - 1), limit=PAGE + 1
            )
            whole = place.position == 0 or bool(lines)
            if place.position > 0 and lines:
                place.check(lines.pop(0))
            if lines:
                yield place.advance(lines)
                if is_terminal(lines[-1]):
                    return
                continue
            while (batch := await subscription.next(self._idle_s)) is not None:
                fresh = batch.lines[max(0, place.position + 1 - batch.first_seq) :]
                if not whole or batch.first_seq > place.position + 1:
                    break
                if fresh:
                    yield place.advance(fresh)
                    if batch.received_s is not None:
                        self._delivered(time.monotonic() - batch.received_s)
                    if is_terminal(fresh[-1]):
                        return
            else:
                yield None
