"""One connection to Redis, as this package uses it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Sequence
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
from relais_common.queue.client.packing import MESSAGE_BYTES, messages
from relais_common.runtime.lifecycle import lived_timeout

CONNECT_TIMEOUT_S = 2.0
"""How long opening a connection may take; asking Sentinels is a part of it."""

READ_BYTES = 1 << 16


class Link(AbstractConnection):
    """A connection with reliable cancellation, whose replies are read in batches.

    redis-py sends with `asyncio.wait_for`, which in Python 3.11 loses a cancellation that arrives just after the bytes
    were sent; a loop would then never end. And if Redis has just closed the connection, uvloop raises a RuntimeError,
    which redis-py does not expect.
    """

    __slots__ = ()

    async def send_packed_command(
        self, command: bytes | str | Iterable[bytes], check_health: bool = True
    ) -> None:
        """Send a command. Raises ConnectionError or CancelledError where redis-py would lose them."""
        task = asyncio.current_task()
        before = 0 if task is None else task.cancelling()
        try:
            await super().send_packed_command(command, check_health)
        except RuntimeError as error:
            raise ConnectionError(f"the connection was closed: {error}") from error
        if task is not None and task.cancelling() > before:
            # Nobody will read the reply, and the connection's next user must not.
            await self.disconnect(nowait=True)
            raise asyncio.CancelledError

    async def send_pieces(self, pieces: Sequence[bytes]) -> None:
        """Send packed commands, a bounded part of them in one turn of the event loop. Raises as above."""
        for message in messages(pieces):
            await self.send_packed_command(message, check_health=False)
            if len(message) >= MESSAGE_BYTES:
                # The system may have taken all of it, and then nothing was waited for.
                await asyncio.sleep(0)

    async def receive(self) -> AsyncGenerator[list[Any]]:
        """Yield replies and messages as they arrive, all that are available at once.

        Errors are yielded like replies; bytes are not decoded. redis-py's own way takes ten coroutines for each reply.

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
    """Return the URL for redis-py, and the Sentinels that know the server if the URL names a service."""
    if not url.startswith(sentinels.SCHEMES):
        return url, None
    address = sentinels.parse(url)
    return address.server_url, Sentinels(address)


def use_links(pool: ConnectionPool, who_is_master: Sentinels | None) -> None:
    """Make a pool create links."""
    kind = pool.connection_class  # by the address: TCP, TLS or a local socket
    name, mended = kind.__name__, (Link, kind)
    if who_is_master is None:
        pool.connection_class = type(name, mended, {"__slots__": ()})
    else:
        follows = (FollowsMaster, *mended)
        pool.connection_class = type(name, follows, {"sentinels": who_is_master})


def links(url: str) -> Callable[[], Link]:
    """Return a function that creates unopened links outside any pool; their user applies timeouts and closes them."""
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
    """Open a link, log in, and close it on exit.

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
