"""One connection to Redis, as this package uses it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any, cast

import hiredis
from redis.asyncio import ConnectionPool
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError, InvalidResponse

from relais_common.queue.client import sentinels
from relais_common.queue.client.failover import FollowsMaster, Sentinels
from relais_common.runtime.lifecycle import lived_timeout

CONNECT_TIMEOUT_S = 2.0
"""How long opening a connection may take; asking Sentinels is a part of it."""

READ_BYTES = 1 << 16


class Link(AbstractConnection):
    """A connection that says what became of what was sent, and gives at once all that has come.

    The client sends with `asyncio.wait_for`, which in Python 3.11 forgets a cancellation that comes when the bytes
    have just left: a loop would go on for ever after the one cancellation that was meant to end it. And where Redis has
    just closed the connection, uvloop raises a RuntimeError, of which the client knows nothing.
    """

    __slots__ = ()

    async def send_packed_command(
        self, command: bytes | str | Iterable[bytes], check_health: bool = True
    ) -> None:
        task = asyncio.current_task()
        before = 0 if task is None else task.cancelling()
        try:
            await super().send_packed_command(command, check_health)
        except RuntimeError as error:
            raise ConnectionError(f"the connection was closed: {error}") from error
        if task is not None and task.cancelling() > before:
            # The answer will be read by nobody, least of all by this connection's next user.
            await self.disconnect(nowait=True)
            raise asyncio.CancelledError

    async def receive(self) -> AsyncGenerator[list[Any]]:
        """What Redis says, as often as something comes: all answers and messages that are there by then.

        Errors are among them; bytes are not decoded. By the client's own way each would pass through ten coroutines.

        Raises:
            ConnectionError: Redis closed the connection.
        """
        stream, unfinished = self._reader, object()
        assert stream is not None, "not connected"
        reader = hiredis.Reader(
            protocolError=InvalidResponse,
            replyError=self._parser.parse_error,
            notEnoughData=unfinished,
        )
        while data := await stream.read(READ_BYTES):
            reader.feed(data)
            answers = []
            while (answer := reader.gets()) is not unfinished:
                answers.append(answer)
            if answers:
                yield answers
        raise ConnectionError("Redis closed the connection")


def where(url: str) -> tuple[str, Sentinels | None]:
    """The URL for the client, and who knows which server is meant where the URL does not say."""
    if not url.startswith(sentinels.SCHEMES):
        return url, None
    address = sentinels.parse(url)
    return address.server_url, Sentinels(address)


def use_links(pool: ConnectionPool, who_is_master: Sentinels | None) -> None:
    """Have a pool make links."""
    kind = pool.connection_class  # by the address: TCP, TLS or a local socket
    name, mended = kind.__name__, (Link, kind)
    if who_is_master is None:
        pool.connection_class = type(name, mended, {"__slots__": ()})
    else:
        follows = (FollowsMaster, *mended)
        pool.connection_class = type(name, follows, {"sentinels": who_is_master})


def links(url: str) -> Callable[[], Link]:
    """Makes links that have not been opened, of no pool: whoever has one sees to its times and its end."""
    server_url, who_is_master = where(url)
    pool = ConnectionPool.from_url(
        server_url,
        socket_timeout=None,
        socket_connect_timeout=None,
        protocol=2,
        retry=Retry(NoBackoff(), retries=0, supported_errors=()),
    )
    use_links(pool, who_is_master)
    return lambda: cast("Link", pool.make_connection())  # type: ignore[no-untyped-call]


@asynccontextmanager
async def opened(link: Link, timeout_s: float = CONNECT_TIMEOUT_S) -> AsyncIterator[Link]:
    """Open a link, log in, and close it in the end.

    Raises:
        TimeoutError: it took longer than `timeout_s`.
        RedisError: it cannot be opened.
    """
    try:
        async with lived_timeout(timeout_s):
            await link.connect()  # type: ignore[no-untyped-call]
        yield link
    finally:
        await link.disconnect(nowait=True)
