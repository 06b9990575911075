"""Server-sent events: frames from encoded events (pure), and a response that disconnects slow readers."""

from __future__ import annotations

from collections.abc import Coroutine, Mapping
from typing import Any

from aiohttp import web

from relais_common.queue.codec import split_event
from relais_common.queue.ports import LiveBatch
from relais_common.runtime.lifecycle import lived_timeout
from relais_orchestrator.http.traffic import RESPONSE_BEGUN, TRAFFIC, Traffic

KEEPALIVE = b": keep-alive\n\n"
KEEPALIVE_LINE = b": keep-alive\n"
"""For streams with ids, in which some clients take an empty line for an event without data."""

HEADERS = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-store",
    # Otherwise nginx buffers responses, and tokens arrive in bursts.
    "X-Accel-Buffering": "no",
}


def frame(seq: int, name: bytes, data: bytes) -> bytes:
    """Return one SSE frame with an id."""
    return b"id: %d\nevent: %b\ndata: %b\n\n" % (seq, name, data)


def frames(batch: LiveBatch) -> bytes:
    """Return a batch of encoded events as SSE frames."""
    return b"".join(
        frame(batch.first_seq + offset, *split_event(line))
        for offset, line in enumerate(batch.lines)
    )


def named_frame(name: bytes, data: bytes) -> bytes:
    """Return a frame that is not an event of the channel. It has no id, so `Last-Event-ID` does not change."""
    return b"event: %b\ndata: %b\n\n" % (name, data)


def data_frame(data: bytes) -> bytes:
    """Return one frame in OpenAI's style, with data only."""
    return b"data: %b\n\n" % data


FITS = 32 << 10
"""Bytes that aiohttp writes without waiting, where it has just waited."""


class SlowReader(ConnectionError):
    """The client did not read in time. It was disconnected, and can resume."""


class EventStream:
    """An SSE response, created by `begin`."""

    __slots__ = ("_request", "_write_timeout_s", "begun", "response", "traffic")

    def __init__(self, request: web.Request, *, write_timeout_s: float) -> None:
        self._request = request
        self._write_timeout_s = write_timeout_s
        self.traffic = request.get(TRAFFIC) or Traffic()
        self.begun = False

    async def begin(self, headers: Mapping[str, str] | None = None) -> None:
        """Create the response and send its headers, including these."""
        # Created here and not earlier: if many responses exist before the first has all its attributes, CPython gives
        # each of them a separate dictionary.
        self.response = web.StreamResponse(headers={**HEADERS, **(headers or {})})
        self.begun = True
        self._request[RESPONSE_BEGUN] = True
        self.traffic.begun += 1
        await self.response.prepare(self._request)
        if self._request.transport is not None:
            # Each drain waits for the last byte: what comes meanwhile costs nothing until the client reads.
            self._request.transport.set_write_buffer_limits(0)

    async def write(self, data: bytes) -> None:
        """Write data, and wait until the system has taken it. Raises SlowReader if that takes `write_timeout_s`."""
        self._count(data)
        writer, transport = self._request.writer, self._request.transport
        if len(data) > FITS:
            await self._in_time(self.response.write(data))
            return
        writer.buffer_size = 0
        await self.response.write(data)
        # A timer costs as much as a write.
        if transport is not None and transport.get_write_buffer_size():
            await self._in_time(writer.drain())

    def _count(self, data: bytes) -> None:
        traffic = self.traffic
        traffic.sent_bytes += len(data)
        if data is KEEPALIVE or data is KEEPALIVE_LINE:
            traffic.keepalives += 1
        else:
            traffic.frames += data.count(b"\n\n")

    async def end(self) -> None:
        """End the stream. Raises SlowReader as `write` does, because the last byte also waits for the client."""
        await self._in_time(self.response.write_eof())

    async def _in_time(self, writing: Coroutine[Any, Any, None]) -> None:
        try:
            async with lived_timeout(self._write_timeout_s):
                await writing
        except TimeoutError:
            self.traffic.cut += 1
            if self._request.transport is not None:
                self._request.transport.abort()
            raise SlowReader("the client reads too slowly") from None
