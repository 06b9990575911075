"""Distributes live messages to many readers, each with a bounded buffer."""

from __future__ import annotations

import asyncio

from relais_common.queue.ports import LiveBatch

MAX_BATCHES = 256
MAX_BYTES = 1 << 20
"""Buffer bound of one reader; a stream of tokens needs a few kilobytes."""

MERGED_BYTES = 16 << 10
"""What a reader that fell behind gets in one piece."""


class BufferedSubscription:
    """One reader's buffer. A full buffer is emptied, because the reader can read everything from the log."""

    __slots__ = (
        "_batches", "_bytes", "_dropped", "_loop", "_max_batches", "_max_bytes", "_waiting",
    )  # fmt: skip

    def __init__(self, max_batches: int = MAX_BATCHES, max_bytes: int = MAX_BYTES) -> None:
        self._max_batches = max_batches
        self._max_bytes = max_bytes
        self._bytes = 0
        self._batches: list[LiveBatch] = []  # an empty deque holds 0.7 KB, and most are empty
        self._dropped = False
        self._loop = asyncio.get_running_loop()
        self._waiting: asyncio.Future[None] | None = None

    def put(self, batch: LiveBatch) -> None:
        """Add a batch. Never blocks, and never exceeds the bounds."""
        size = _size(batch)
        if len(self._batches) >= self._max_batches or self._bytes + size > self._max_bytes:
            self.drop()
        elif not self._dropped:
            self._batches.append(batch)
            self._bytes += size
            self._wake()

    def drop(self) -> None:
        """Notify the reader that live messages may be missing."""
        self._batches.clear()
        self._bytes = 0
        self._dropped = True
        self._wake()

    async def next(self, timeout_s: float) -> LiveBatch | None:
        """Return the next batch, or None if `timeout_s` passed or batches were dropped: then read the log."""
        if not (self._batches or self._dropped):
            # A bare timer, because this runs for each batch and reader: `asyncio.timeout` costs several times more.
            self._waiting = self._loop.create_future()
            timer = self._loop.call_later(timeout_s, self._wake)
            try:
                await self._waiting
            finally:
                timer.cancel()
                self._waiting = None
        if self._dropped or not self._batches:
            self._dropped = False
            return None
        batch = self._batches.pop(0)
        size = _size(batch)
        if self._batches:
            lines = list(batch.lines)
            while self._batches and self._batches[0].first_seq == batch.first_seq + len(lines):
                if size + _size(self._batches[0]) > MERGED_BYTES:
                    break
                more = self._batches.pop(0)
                size += _size(more)
                lines += more.lines
            batch = LiveBatch(batch.first_seq, lines, batch.received_s)
        self._bytes -= size
        return batch

    def _wake(self) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)


def _size(batch: LiveBatch) -> int:
    return sum(map(len, batch.lines))


class Fanout:
    """The readers of each channel in this process."""

    def __init__(self, max_batches: int = MAX_BATCHES, max_bytes: int = MAX_BYTES) -> None:
        self._max_batches = max_batches
        self._max_bytes = max_bytes
        self._readers: dict[str, list[BufferedSubscription]] = {}

    def count(self, channel: str) -> int:
        """Return the number of a channel's readers."""
        return len(self._readers.get(channel, ()))

    def join(self, channel: str) -> BufferedSubscription:
        """Return a subscription to the channel; `leave` must follow."""
        subscription = BufferedSubscription(self._max_batches, self._max_bytes)
        self._readers.setdefault(channel, []).append(subscription)
        return subscription

    def leave(self, channel: str, subscription: BufferedSubscription) -> None:
        """Remove this reader."""
        readers = self._readers[channel]
        readers.remove(subscription)
        if not readers:
            del self._readers[channel]

    def publish(self, channel: str, batch: LiveBatch) -> None:
        """Hand a batch to the readers of its channel."""
        for subscription in self._readers.get(channel, ()):
            subscription.put(batch)

    def drop(self, channel: str) -> None:
        """Notify the channel's readers that live messages may be missing."""
        for subscription in self._readers.get(channel, ()):
            subscription.drop()

    def drop_all(self) -> None:
        """Notify all readers that live messages may be missing."""
        for channel in self._readers:
            self.drop(channel)
