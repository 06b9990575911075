"""The client of every side's streams: opens so many that wait, lets the upstream give each its tokens, and checks them.

`python -m benchmarks.forwarding.streams URL UPSTREAM_URL MODEL STREAMS TOKENS TOKENS_PER_S NAME` opens the streams,
waits for a line on stdin, then prints JSON. What went wrong is counted; nothing but a bug ends it early.
"""

from __future__ import annotations

import asyncio
import re
import sys
import time
import urllib.request
from array import array
from collections.abc import Sequence
from typing import Any, cast
from urllib.parse import urlsplit

import httptools
import orjson
import uvloop

from benchmarks.figures import quantile_ms
from benchmarks.forwarding.upstream import HELD
from benchmarks.servers import measured

STAMP = re.compile(rb"(\d{7})at(\d{19});")
DONE = b"data: [DONE]"
OPENERS = 128
OPENING_S = 60.0
ENDING_S = 30.0
PATIENCE = 2
"""Times the streams' own length for which they may take to end."""
LEAST_PATIENCE_S = 20.0


class Stream(asyncio.Protocol):
    """One stream.

    Attributes:
        opened: done at the head of a 200; fails where there is none.
        ended: done when all its tokens are there, or when the connection is lost.
        closed: done at the answer's end, likewise.
        tokens: how many came.
        wrong: those of another stream, out of order or not in a frame of their own.
    """

    __slots__ = (
        "_delays_s", "_last_ns", "_most", "_number", "_parser", "_request", "_rest", "closed",
        "ended", "opened", "tokens", "transport", "wrong",
    )  # fmt: skip

    def __init__(self, number: int, request: bytes, most: int, delays_s: array[float]) -> None:
        loop = asyncio.get_running_loop()
        self.opened: asyncio.Future[None] = loop.create_future()
        self.ended: asyncio.Future[None] = loop.create_future()
        self.closed: asyncio.Future[None] = loop.create_future()
        self.tokens, self.wrong = 0, 0
        self._most = most
        self._number = b"%07d" % number
        self._request = request
        self._delays_s = delays_s
        self._parser = httptools.HttpResponseParser(self)
        self._rest = b""
        self._last_ns = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are no subclasses of asyncio's.
        self.transport = cast("asyncio.Transport", transport)
        self.transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if self.opened.done():
            return
        if status == 200:
            self.opened.set_result(None)
        else:
            self.opened.set_exception(ConnectionError(f"refused with {status}"))

    def on_body(self, data: bytes) -> None:
        now_ns = time.monotonic_ns()
        data = self._rest + data
        cut = data.rfind(b"\n\n") + 2
        if cut == 1:
            self._rest = data
            return
        self._rest, data = data[cut:], data[:cut]
        found = STAMP.findall(data)
        for number, stamp in found:
            sent_ns = int(stamp)
            self._delays_s.append((now_ns - sent_ns) / 1e9)
            self.wrong += number != self._number or sent_ns < self._last_ns
            self._last_ns = sent_ns
        self.tokens += len(found)
        if len(found) > 1:
            # Two tokens in one frame are one frame less than were sent.
            self.wrong += data.count(b"data: ") < len(found)
        if self.tokens >= self._most:
            _note(self.ended)
        if DONE in data:
            _note(self.closed)

    def connection_lost(self, error: Exception | None) -> None:
        if not self.opened.done():
            self.opened.set_exception(error or ConnectionError("cut before it began"))
        _note(self.ended)
        _note(self.closed)


def _note(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _request(netloc: str, model: str, number: int, tokens: int) -> bytes:
    body = orjson.dumps(
        {
            "model": model,
            "messages": [{"role": "user", "content": f"{HELD}{number}"}],
            "max_tokens": tokens,
            "stream": True,
        }
    )
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: {netloc}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


async def _opened(
    url: str, model: str, streams: int, tokens: int
) -> tuple[list[Stream], list[str]]:
    """Open so many, `OPENERS` at a time; those that are open, and why others are not."""
    address, delays_s = urlsplit(url), array("d")
    assert address.hostname is not None
    assert address.port is not None
    host, port = address.hostname, address.port
    loop = asyncio.get_running_loop()
    found: list[Stream] = []
    errors: list[str] = []
    numbers = iter(range(streams))

    async def open_some() -> None:
        for number in numbers:
            request = _request(address.netloc, model, number, tokens)
            try:
                _, stream = await loop.create_connection(
                    lambda request=request, number=number: Stream(
                        number, request, tokens, delays_s
                    ),  # type: ignore[misc]
                    host,
                    port,
                )
                await stream.opened
            except OSError as error:
                errors.append(str(error))
                return
            found.append(stream)

    try:
        async with asyncio.timeout(OPENING_S):
            await asyncio.gather(*(open_some() for _ in range(min(OPENERS, streams))))
    except TimeoutError:
        errors.append(f"only {len(found)} of {streams} opened in {OPENING_S:g} s")
    return found, errors


async def main(
    url: str, upstream: str, model: str, count: int, tokens: int, tokens_per_s: float
) -> None:
    began_s = time.monotonic()
    streams, errors = await _opened(url, model, count, tokens)
    opening_s = time.monotonic() - began_s
    length_s = tokens / tokens_per_s
    patience_s = max(LEAST_PATIENCE_S, PATIENCE * length_s)

    async def flow() -> None:
        asked = orjson.dumps({"tokens": tokens, "tokens_per_s": tokens_per_s})
        await asyncio.to_thread(_call, f"{upstream}/go", asked)
        _, late = await asyncio.wait([stream.ended for stream in streams], timeout=patience_s)
        if late:
            errors.append(f"{len(late)} streams not done in {patience_s:g} s")

    async def nothing() -> None:
        """Where not all are open, there is nothing to compare."""

    spent = await measured(flow if len(streams) == count else nothing)
    sent = await asyncio.to_thread(_call, f"{upstream}/state")
    told = _told(streams, errors, tokens)
    await asyncio.to_thread(_call, f"{upstream}/end", b"")
    if streams and not errors:
        # So that the gateway is idle again when the next one runs.
        await asyncio.wait([stream.closed for stream in streams], timeout=ENDING_S)
    for stream in streams:
        stream.transport.abort()
    print(orjson.dumps({**spent, **told, "opening_s": opening_s, **sent}).decode())


def _told(streams: Sequence[Stream], errors: list[str], tokens: int) -> dict[str, Any]:
    delays_s = streams[0]._delays_s if streams else []
    wrong = sum(stream.wrong for stream in streams)
    cut = sum(stream.ended.done() and stream.tokens < tokens for stream in streams)
    errors += [f"{wrong} tokens of the wrong stream, order or frame"] * bool(wrong)
    errors += [f"{cut} streams cut"] * bool(cut)
    return {
        "opened": len(streams),
        "frames": sum(stream.tokens for stream in streams),
        "delays_ms": [quantile_ms(delays_s, share) for share in (0.5, 0.99) if delays_s],
        "errors": errors,
    }


def _call(url: str, body: bytes | None = None) -> dict[str, Any]:
    with urllib.request.urlopen(url, body) as answer:
        told: dict[str, Any] = orjson.loads(answer.read())
        return told


if __name__ == "__main__":
    where, behind, what, many, length, pace = sys.argv[1:]
    uvloop.run(main(where, behind, what, int(many), int(length), float(pace)))
