"""Follows channels: returns all past events, then all new ones, in order, each exactly once.

The log is authoritative. Live messages only save reads of it: they are trimmed to what is new. After a gap, a
lost connection, or a silence the log is read again.

A Redis that lost its last second comes back with an older log. Each read therefore begins at the last event that was
returned: what follows is valid only if the log has that same line at that number.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable

import structlog

from relais_common.jobs.errors import ChannelNotFound, LogRewound, StoreUnavailable
from relais_common.jobs.job import ChannelState
from relais_common.queue.codec import TERMINAL_NAMES
from relais_common.queue.ports import EventLog, JobIntake, LiveBatch, LiveBus, Subscription
from relais_common.runtime.backoff import Backoff

log = structlog.get_logger(__name__)

PAGE = 256


def is_terminal(line: bytes) -> bool:
    """Return whether this encoded event is terminal."""
    return line.partition(b" ")[0] in TERMINAL_NAMES


class _Place:
    """A reader's position: the number of the last event it got, and its line if known."""

    __slots__ = ("_line", "ended", "position")

    def __init__(self, position: int) -> None:
        self.position = position
        self.ended = False
        self._line: bytes | None = None

    def advance(self, lines: list[bytes]) -> LiveBatch:
        """Advance by these lines, which the reader gets next."""
        batch = LiveBatch(self.position + 1, lines)
        self.position += len(lines)
        self._line = lines[-1]
        self.ended = is_terminal(self._line)
        return batch

    def check(self, line: bytes) -> None:
        """Compare the position with the log's line of this number. The first line after a resumption is accepted.

        Raises:
            LogRewound: the log has a different line.
        """
        if self._line is not None and line != self._line:
            raise LogRewound("the log lost its last events, and what took their place differs")
        self._line = line


class _Reader:
    """Reads on from a position over one subscription: reads the log to its end, listens, and reads again.

    Not a generator: its frame would cost each open stream 0.6 KB, and would keep the last batch alive.

    Attributes:
        received_s: when the last returned live events reached this process; None for anything else.
    """

    __slots__ = (
        "_channel_id", "_idle_s", "_listens", "_log", "_place", "_queue", "_silent", "_subscription", "_whole",
        "received_s",
    )  # fmt: skip

    def __init__(
        self,
        queue: JobIntake,
        event_log: EventLog,
        subscription: Subscription,
        channel_id: str,
        place: _Place,
        idle_s: float,
    ) -> None:
        self._queue = queue
        self._log = event_log
        self._subscription = subscription
        self._channel_id = channel_id
        self._place = place
        self._idle_s = idle_s
        self._listens = False
        self._silent = False
        self._whole = True
        self.received_s: float | None = None

    async def next(self) -> LiveBatch | ChannelState | None:
        """Return the next item of `Follower.follow`."""
        self.received_s = None
        while True:
            if not self._listens and (seen := await self._look()) is not None:
                return seen
            batch = await self._subscription.next(self._idle_s)
            if batch is None:
                self._listens, self._silent = False, True
                return None
            fresh = batch.lines[max(0, self._place.position + 1 - batch.first_seq) :]
            if not self._whole or batch.first_seq > self._place.position + 1:
                self._listens = False
            elif fresh:
                self.received_s = batch.received_s
                return self._place.advance(fresh)

    async def _look(self) -> LiveBatch | ChannelState | None:
        """Return the log's next events, an end without them, or, after a silence, the channel's state."""
        place = self._place
        silent, self._silent = self._silent, False
        after, state, lines = max(0, place.position - 1), None, list[bytes]()
        if not silent:
            lines = await self._log.read(self._channel_id, after=after, limit=PAGE + 1)
        if not lines:
            look = await self._log.look(self._channel_id, after=after, limit=PAGE + 1)
            if look is None:
                raise _unknown()
            state, lines = look.state, look.lines
        is_all = len(lines) <= PAGE
        self._whole = place.position == 0 or bool(lines)
        if place.position > 0 and lines:
            place.check(lines.pop(0))
        if lines:
            # What comes after them is heard: a second look would find the next ones, and a third, on and on.
            self._listens = is_all
            return place.advance(lines)
        if state is not None and state.status.is_terminal:
            return await self._end(state)
        self._listens = True
        return state if silent else None

    async def _end(self, state: ChannelState) -> ChannelState:
        if state.tail < self._place.position:
            raise LogRewound("the log lost its last events, and the request ended without them")
        whole = await self._queue.state(self._channel_id)
        if whole is None:
            raise _unknown()
        self._place.ended = True
        return whole


def _unknown() -> ChannelNotFound:
    return ChannelNotFound("the request is no longer known", param="channel_id")


class Follower:
    """Reads channels for clients.

    Args:
        idle_s: silence after which `follow` yields None, so that the caller can keep its connection alive.
        delivered: called with the seconds between the receipt of live events and the end of their delivery.
    """

    def __init__(
        self,
        queue: JobIntake,
        event_log: EventLog,
        live: LiveBus,
        *,
        idle_s: float,
        delivered: Callable[[float], None] = lambda _: None,
    ) -> None:
        self._queue = queue
        self._log = event_log
        self._live = live
        self._idle_s = idle_s
        self._delivered = delivered

    async def has_log(self, channel_id: str) -> bool:
        """Return whether the channel's events are still kept. Raises StoreUnavailable."""
        look = await self._log.look(channel_id, after=0, limit=1)
        return look is not None and bool(look.lines)

    async def follow(
        self, channel_id: str, after: int
    ) -> AsyncGenerator[LiveBatch | ChannelState | None]:
        """Yield batches of events with numbers `after + 1`, ... up to the terminal one; None in silences.

        After a None comes the channel's state, unless there are events after all, or the store is unavailable. If
        that state is terminal, it has the whole text and is the last item: the log has expired.

        An unavailable Redis is a long silence, and so is a log shorter than what was returned, while it may grow again.

        Raises:
            LogRewound: the log has grown again with other events, or the request ended before the returned position.
            ChannelNotFound: the store no longer has the channel.
        """
        backoff = Backoff()
        place = _Place(after)
        while not place.ended:
            try:
                async with self._live.subscribe(channel_id) as subscription:
                    reader = _Reader(
                        self._queue, self._log, subscription, channel_id, place, self._idle_s
                    )
                    while not place.ended:
                        yield await reader.next()
                        if reader.received_s is not None:
                            self._delivered(time.monotonic() - reader.received_s)
                        backoff.reset()
            except StoreUnavailable:
                log.debug("follow_interrupted", channel_id=channel_id)
                yield None
                await backoff.pause()
