"""A proxy in front of Redis that passes requests on and drops chosen replies.

    async with ReplyEater(server.host, server.port) as eater:
        eater.eat("append", times=3)          # the next three replies to this script
        eater.eat_every("take", 2)            # and every second one to that
        ... open_store(RedisSettings(eater.url)) ...

In place of an eaten reply the client sees its connection closed. Redis has carried the request out: what a client
cannot tell from a request that never arrived. Scripts go by their name, commands by their first word in small letters.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from dataclasses import dataclass, field
from types import TracebackType

from relais_common.queue import scripts

_NAMES = {scripts.digest(name).encode(): name for name in scripts.NAMES}
_NAMES |= {scripts.source(name).encode(): name for name in scripts.NAMES}
_SUBSCRIBING = {"subscribe", "psubscribe", "ssubscribe"}
_LIMIT = 1 << 24


@dataclass
class _Pending:
    """What one connection has asked for and not been told yet."""

    names: deque[str] = field(default_factory=deque)
    subscribed: bool = False


class ReplyEater:
    """Listens on a port of its own, for as long as its context lasts.

    Attributes:
        requests: how often each command or script was asked for.
        eaten: how many of its replies were eaten.
    """

    def __init__(self, host: str, port: int) -> None:
        self.requests: Counter[str] = Counter()
        self.eaten: Counter[str] = Counter()
        self._target = (host, port)
        self._next: Counter[str] = Counter()
        self._every: dict[str, int] = {}
        self._held: set[str] = set()
        self._replies: Counter[str] = Counter()
        self._server: asyncio.Server | None = None
        self._connections: dict[asyncio.Task[None], asyncio.StreamWriter] = {}

    def eat(self, name: str, times: int = 1) -> None:
        """Eat the next replies."""
        self._next[name] += times

    def eat_every(self, name: str, nth: int) -> None:
        """Eat every nth reply from now on."""
        self._every[name] = nth

    def hold(self, name: str) -> None:
        """Withhold such requests from now on: they never reach Redis and are never answered."""
        self._held.add(name)

    def stop_eating(self) -> None:
        self._next.clear()
        self._every.clear()

    @property
    def url(self) -> str:
        """Return the address for clients, for `REDIS_URL`."""
        assert self._server is not None, "the proxy is not open"
        host, port = self._server.sockets[0].getsockname()[:2]
        return f"redis://{host}:{port}/0"

    async def __aenter__(self) -> ReplyEater:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0, limit=_LIMIT)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._server is not None
        self._server.close()
        for writer in self._connections.values():
            writer.transport.abort()
        await asyncio.gather(*self._connections)
        await self._server.wait_closed()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # No coroutine, which would begin a turn later: the context may have ended by then.
        task = asyncio.create_task(self._carry(reader, writer))
        self._connections[task] = writer
        task.add_done_callback(self._connections.pop)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self._serve(reader, writer)
        except (OSError, EOFError):
            pass  # either side has gone
        finally:
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream, upstream_writer = await asyncio.open_connection(*self._target, limit=_LIMIT)
        pending = _Pending()
        ways = [
            asyncio.create_task(self._carry_requests(reader, upstream_writer, pending)),
            asyncio.create_task(self._carry_replies(upstream, writer, pending)),
        ]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            upstream_writer.close()

    async def _carry_requests(
        self, reader: asyncio.StreamReader, upstream: asyncio.StreamWriter, pending: _Pending
    ) -> None:
        while True:
            raw, words = await _read_request(reader)
            name = _name(words)
            self.requests[name] += 1
            if name in self._held:
                continue
            pending.names.append(name)
            pending.subscribed = pending.subscribed or name in _SUBSCRIBING
            upstream.write(raw)
            await upstream.drain()

    async def _carry_replies(
        self, upstream: asyncio.StreamReader, writer: asyncio.StreamWriter, pending: _Pending
    ) -> None:
        while True:
            reply = await _read_reply(upstream)
            # What comes on a subscribed connection answers no one request.
            if not pending.subscribed and self._is_food(pending.names.popleft(), reply):
                return
            writer.write(reply)
            await writer.drain()

    def _is_food(self, name: str, reply: bytes) -> bool:
        if reply.startswith(b"-"):
            return False  # an error: nothing was carried out
        self._replies[name] += 1
        if self._next[name] > 0:
            self._next[name] -= 1
        elif name not in self._every or self._replies[name] % self._every[name]:
            return False
        self.eaten[name] += 1
        return True


def _name(words: list[bytes]) -> str:
    command = words[0].decode().lower()
    if command in ("evalsha", "eval"):
        return _NAMES.get(words[1], command)
    return command


async def _read_request(reader: asyncio.StreamReader) -> tuple[bytes, list[bytes]]:
    """Read one request: an array of bulk strings."""
    head = await reader.readuntil(b"\r\n")
    raw, words = [head], []
    for _ in range(int(head[1:])):
        size = await reader.readuntil(b"\r\n")
        word = await reader.readexactly(int(size[1:]) + 2)
        raw += [size, word]
        words.append(word[:-2])
    return b"".join(raw), words


async def _read_reply(reader: asyncio.StreamReader) -> bytes:
    """Read one reply of RESP 2 or 3."""
    head = await reader.readuntil(b"\r\n")
    kind, rest = head[:1], head[1:-2]
    parts = [head]
    if kind in b"$!=" and int(rest) >= 0:
        parts.append(await reader.readexactly(int(rest) + 2))
    elif kind in b"*~>%|":
        elements = int(rest) * (2 if kind in b"%|" else 1)
        if kind == b"|":
            elements += 1  # attributes stand before the reply they belong to
        for _ in range(elements):
            parts.append(await _read_reply(reader))  # noqa: PERF401 - one after another
    return b"".join(parts)
