"""Server-sent events: encoded events to frames (pure), and a response that a slow reader cannot fill."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from relais_common.queue.codec import split_event
from relais_common.queue.ports import LiveBatch

KEEPALIVE = b": keep-alive\n\n"
HEADERS = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-store",
    # nginx buffers responses otherwise, and tokens would come in lumps.
    "X-Accel-Buffering": "no",
}


def frame(seq: int, name: bytes, data: bytes) -> bytes:
    """One SSE frame with an id."""
    return b"id: %d\nevent: %b\ndata: %b\n\n" % (seq, name, data)


def frames(batch: LiveBatch) -> bytes:
    """A batch of encoded events as SSE frames."""
    return b"".join(
        frame(batch.first_seq + offset, *split_event(line))
        for offset, line in enumerate(batch.lines)
    )


def named_frame(name: bytes, data: bytes) -> bytes:
    """A frame that is no event of the channel: it has no id, so the client's last one stays."""
    return b"event: %b\ndata: %b\n\n" % (name, data)


def data_frame(data: bytes) -> bytes:
    """One frame in OpenAI's manner: data only."""
    return b"data: %b\n\n" % data


RESPONSE_BEGUN: web.RequestKey[bool] = web.RequestKey("response_begun", bool)
"""Set once headers have left: an error can no longer be a status."""


@dataclass(slots=True)
class Traffic:
    """What streams of one kind have done so far.

    Attributes:
        begun: whose headers have left.
        ended: of these, the ones that are over.
        resumed: of these, the ones whose client had events already.
        frames: sent; comments do not count.
        cut: whose client read too slowly.
    """

    begun: int = 0
    ended: int = 0
    resumed: int = 0
    frames: int = 0
    sent_bytes: int = 0
    keepalives: int = 0
    cut: int = 0


TRAFFIC: web.RequestKey[Traffic] = web.RequestKey("traffic", Traffic)
"""Where a request's stream is counted."""


FITS = 32 << 10
"""Bytes that an empty transport takes without a word: half of where it asks writers to wait."""


class SlowReader(ConnectionError):
    """The client did not take what was written in time; it was cut off and can resume."""


class EventStream:
    """An SSE response, which there is from `begin` on."""

    __slots__ = ("_request", "_write_timeout_s", "begun", "response", "traffic")

    def __init__(self, request: web.Request, *, write_timeout_s: float) -> None:
        self._request = request
        self._write_timeout_s = write_timeout_s
        self.traffic = request.get(TRAFFIC) or Traffic()
        self.begun = False

    async def begin(self, headers: Mapping[str, str] | None = None) -> None:
        """Send the headers, these among them."""
        # Made here, not before: where many responses are made before the first gets all its attributes, CPython gives
        # each of them a dictionary of its own.
        self.response = web.StreamResponse(headers={**HEADERS, **(headers or {})})
        self.begun = True
        self._request[RESPONSE_BEGUN] = True
        self.traffic.begun += 1
        await self.response.prepare(self._request)

    async def write(self, data: bytes) -> None:
        """Raises SlowReader once the client's buffers stay full for `write_timeout_s`."""
        self._count(data)
        transport = self._request.transport
        if transport is None or transport.get_write_buffer_size() or len(data) > FITS:
            await self._in_time(self.response.write(data))
        else:
            # It cannot wait, and a timer costs as much as the write.
            await self.response.write(data)

    def _count(self, data: bytes) -> None:
        traffic = self.traffic
        traffic.sent_bytes += len(data)
        if data is KEEPALIVE:
            traffic.keepalives += 1
        else:
            traffic.frames += data.count(b"\n\n")

    async def end(self) -> None:
        """Raises SlowReader as `write` does: the last byte waits for the client too."""
        await self._in_time(self.response.write_eof())

    async def _in_time(self, writing: Coroutine[Any, Any, None]) -> None:
        try:
            async with asyncio.timeout(self._write_timeout_s):
                await writing
        except TimeoutError:
            self.traffic.cut += 1
            if self._request.transport is not None:
                self._request.transport.abort()
            raise SlowReader("the client reads too slowly") from None
