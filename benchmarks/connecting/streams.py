"""Clients that cost little: one raw connection and a few counters per stream, thousands in a process."""

from __future__ import annotations

import asyncio
import socket
import time
from typing import cast

import orjson

from benchmarks.connecting.feed import STAMP
from relais_testing.process_stack import MODEL
from relais_testing.tcp_ports import HOST

_OPEN = {b"native": b"event: started", b"openai": b"data: {"}
_END = b"event: completed"
SLOW_BUFFER = 4096
CONNECT_TIMEOUT_S = 60.0


def native_request(channel_id: str, token: str) -> bytes:
    """GET of a channel's events."""
    return (
        f"GET /v1/channels/{channel_id}/events HTTP/1.1\r\nHost: relais\r\n"
        f"Authorization: Bearer {token}\r\n\r\n"
    ).encode()


def openai_request(token: str) -> bytes:
    """POST of a streamed chat."""
    body = orjson.dumps(
        {"model": MODEL, "messages": [{"role": "user", "content": "connect"}], "stream": True}
    )
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\nHost: relais\r\n"
        f"Authorization: Bearer {token}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


class Latencies:
    """Where streams note how old each token was when it came; who measures puts in a fresh list."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def fresh(self) -> list[float]:
        """A new list, which what comes from now on goes to."""
        self.seconds = []
        return self.seconds


class Stream(asyncio.Protocol):
    """One request and all that comes back.

    Attributes:
        tokens: how many came, each a line of its own.
        opened: done at the first event that says that the engine has the request.
        ended: done at a native stream's last event; fails, as `opened` does, when the connection is lost.
    """

    __slots__ = (
        "_latencies", "_mark", "_request", "_rest", "began_s", "ended", "first_s", "last_s", "lost",
        "opened", "tokens", "transport",
    )  # fmt: skip

    def __init__(self, kind: str, request: bytes, latencies: Latencies | None) -> None:
        self._mark: bytes | None = _OPEN[kind.encode()]
        self._request = request
        self._latencies = latencies
        self._rest = b""
        loop = asyncio.get_running_loop()
        self.opened: asyncio.Future[None] = loop.create_future()
        self.ended: asyncio.Future[None] = loop.create_future()
        self.transport: asyncio.Transport | None = None
        self.tokens = 0
        self.lost = False
        self.began_s = self.first_s = self.last_s = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's has another base class
        self.began_s = time.perf_counter()
        self.transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        now = time.time_ns()
        data = self._rest + data
        cut = data.rfind(b"\n") + 1
        self._rest, data = data[cut:], data[:cut]
        if self._mark is not None and self._mark in data:
            self._mark = None
            self.first_s = time.perf_counter() - self.began_s
            self.opened.set_result(None)
        for sent in STAMP.findall(data):
            self.tokens += 1
            if self._latencies is not None:
                self._latencies.seconds.append((now - int(sent)) / 1e9)
        if _END in data and not self.ended.done():
            self.last_s = time.perf_counter() - self.began_s
            self.ended.set_result(None)

    def connection_lost(self, error: Exception | None) -> None:
        self.lost = True
        for future in (self.opened, self.ended):
            if not future.done():
                future.set_exception(ConnectionError("the stream was cut"))
                future.exception()

    def close(self) -> None:
        if self.transport is not None:
            self.transport.abort()


async def open_stream(
    port: int, kind: str, request: bytes, latencies: Latencies | None, *, address: str = HOST
) -> Stream:
    """Connect, ask, and wait for the first event.

    Args:
        address: this end's; each has its own range of ports.
    """
    loop = asyncio.get_running_loop()
    _, stream = await loop.create_connection(
        lambda: Stream(kind, request, latencies), HOST, port, local_addr=(address, 0)
    )
    async with asyncio.timeout(CONNECT_TIMEOUT_S):
        await stream.opened
    return stream


async def open_unread(port: int, request: bytes) -> socket.socket:
    """A client that asks and then reads nothing at all."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SLOW_BUFFER)
    sock.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(sock, (HOST, port))
    await loop.sock_sendall(sock, request)
    return sock
