"""What every attack has at hand: requests that end when time is up, raw connections, and a count of what came back."""

from __future__ import annotations

import asyncio
import select
import socket
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any

import aiohttp
import orjson

from benchmarks.attacking.keys import ATTACKERS
from relais_testing.keys import bearer
from relais_testing.tcp_ports import HOST

FAULTS = (aiohttp.ClientError, TimeoutError, OSError, asyncio.IncompleteReadError)
SMALL_BUFFER = 4096


class Attacker:
    """Sends what an attack wants sent, until its time is up.

    Args:
        urls: the orchestrators that there are now.

    Attributes:
        got: how often each status came back; `cut` where none did, `unanswered` where it was still to come.
    """

    def __init__(
        self, urls: Callable[[], Sequence[str]], session: aiohttp.ClientSession, seconds: float
    ) -> None:
        self.got: Counter[str] = Counter()
        self._urls = urls
        self._session = session
        self._end_s = time.monotonic() + seconds
        self._turn = 0

    @property
    def left_s(self) -> float:
        return max(0.0, self._end_s - time.monotonic())

    def front(self) -> str:
        """Base URL of one orchestrator, the next at each call."""
        self._turn += 1
        urls = self._urls()
        return urls[self._turn % len(urls)]

    async def send(
        self,
        path: str,
        body: Any = None,
        *,
        key: str | None = ATTACKERS[0],
        method: str = "POST",
        headers: Mapping[str, str] | None = None,
    ) -> tuple[int, bytes]:
        """One request and its whole answer; (0, b"") where none came.

        Args:
            body: sent as it is where it is bytes, else as JSON.
            key: whose; None for no key at all.
        """
        raw = body if isinstance(body, bytes) or body is None else orjson.dumps(body)
        all_headers = {
            **(bearer(key) if key else {}),
            **({"Content-Type": "application/json"} if raw else {}),
            **(headers or {}),
        }
        try:
            async with self._session.request(
                method, self.front() + path, data=raw, headers=all_headers
            ) as response:
                content = await response.read()
        except FAULTS:
            self.got["cut"] += 1
            return 0, b""
        except asyncio.CancelledError:
            self.got["unanswered"] += 1
            raise
        self.got[str(response.status)] += 1
        return response.status, content

    async def over_and_over(
        self, act: Callable[[int], Awaitable[Any]], *, at_once: int, most: int = 10**9
    ) -> None:
        """`act(0)`, `act(1)`, ..., so many at once, until time is up or so many were begun. Cuts what then goes on."""
        numbers = iter(range(most))

        async def one() -> None:
            for number in numbers:
                await act(number)

        with suppress(TimeoutError):
            async with asyncio.timeout(self.left_s), asyncio.TaskGroup() as group:
                for _ in range(min(at_once, most)):
                    group.create_task(one())

    async def send_in_turns(
        self,
        requests: Sequence[tuple[str, Any]],
        *,
        keys: Sequence[str | None] = ATTACKERS,
        method: str = "POST",
        at_once: int,
        most: int = 10**9,
    ) -> None:
        """Paths and bodies, one after the other under one key after the other: see `over_and_over`."""

        async def one(number: int) -> None:
            path, body = requests[number % len(requests)]
            await self.send(path, body, key=keys[number % len(keys)], method=method)

        await self.over_and_over(one, at_once=at_once, most=most)

    async def rest(self) -> None:
        """Until time is up."""
        await asyncio.sleep(self.left_s)

    async def connect(self, *, small_buffer: bool = False) -> socket.socket:
        """A bare connection to one orchestrator."""
        sock = socket.socket()
        if small_buffer:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_BUFFER)
        sock.setblocking(False)
        try:
            port = int(self.front().rpartition(":")[2])
            async with asyncio.timeout(10):
                await asyncio.get_running_loop().sock_connect(sock, (HOST, port))
        except BaseException:
            sock.close()
            raise
        return sock

    @contextmanager
    def holding(self, sockets: list[socket.socket]) -> Iterator[None]:
        """At the end, count which of them the server has closed, and close them all."""
        try:
            yield
        finally:
            for sock in sockets:
                self.got["closed" if _is_closed(sock) else "left open"] += 1
                sock.close()

    async def raw(self, sent: bytes, *, wait_s: float = 5.0) -> None:
        """Send these bytes on a connection of their own; counts the status of the first answer."""
        loop = asyncio.get_running_loop()
        try:
            with await self.connect() as sock:
                async with asyncio.timeout(wait_s):
                    await loop.sock_sendall(sock, sent)
                    head = await loop.sock_recv(sock, 4096)
        except FAULTS as fault:
            self.got["no answer" if isinstance(fault, TimeoutError) else "cut"] += 1
            return
        parts = head.split(b" ", 2)
        self.got[parts[1].decode("ascii", "replace")[:3] if len(parts) > 1 else "closed"] += 1


@asynccontextmanager
async def attacker_of(urls: Callable[[], Sequence[str]], seconds: float) -> AsyncIterator[Attacker]:
    """One with as many connections as it likes, all of which end with the context."""
    connector = aiohttp.TCPConnector(limit=0)
    timeout = aiohttp.ClientTimeout(total=None)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
        yield Attacker(urls, session, seconds)


def _is_closed(sock: socket.socket) -> bool:
    """Whether the other end has ended it; takes nothing of what may lie there unread."""
    watched = select.poll()
    watched.register(sock, select.POLLRDHUP)
    return bool(watched.poll(0))


def head(
    path: str, key: str | None, length: int | None = None, method: str = "POST", **more: str
) -> bytes:
    """The head of a raw request."""
    headers = {"Host": "relais", **(bearer(key) if key else {})}
    if length is not None:
        headers |= {"Content-Type": "application/json", "Content-Length": str(length)}
    lines = [f"{method} {path} HTTP/1.1"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in {**headers, **more}.items()]
    return "\r\n".join([*lines, "", ""]).encode()
