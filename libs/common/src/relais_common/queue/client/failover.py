"""Connections to the Redis that the Sentinels currently name as master."""

from __future__ import annotations

from typing import Any

import structlog
from redis.asyncio import Redis
from redis.asyncio.connection import Connection
from redis.exceptions import ConnectionError, ReadOnlyError, RedisError, ResponseError

from relais_common.queue.client.sentinels import SentinelAddress

log = structlog.get_logger(__name__)

ASK_TIMEOUT_S = 0.5
"""Timeout of one Sentinel, after which the next one is asked, from then on first."""


def is_read_only(answer: object) -> bool:
    """Return whether a reply is the error of a replica that was to write. That of a script has it in its text."""
    if isinstance(answer, ReadOnlyError):
        return True
    return isinstance(answer, ResponseError) and "READONLY" in str(answer)


class Sentinels:
    """Asks Sentinels for the master, starting with the one that answered last."""

    def __init__(self, address: SentinelAddress) -> None:
        self._address = address
        self._first = 0
        self._last: tuple[str, int] | None = None

    async def master(self) -> tuple[str, int]:
        """Return the master's host and port. Raises redis-py's ConnectionError if no Sentinel knows it."""
        count, first = len(self._address.sentinels), self._first
        for step in range(count):
            index = (first + step) % count
            # Until this one answers, also where our caller does not wait for that.
            self._first = (index + 1) % count
            try:
                found = await self._ask(*self._address.sentinels[index])
            except (RedisError, OSError):
                continue
            if found is not None:
                self._first = index
                if self._last not in (None, found):
                    log.warning("redis_failed_over", host=found[0], port=found[1])
                self._last = found
                return found
        raise ConnectionError(f"no Sentinel knows a master of {self._address.service!r}")

    async def _ask(self, host: str, port: int) -> tuple[str, int] | None:
        async with Redis(
            host=host,
            port=port,
            password=self._address.password,
            ssl=self._address.tls,
            socket_timeout=ASK_TIMEOUT_S,
            socket_connect_timeout=ASK_TIMEOUT_S,
            single_connection_client=True,
            decode_responses=True,
        ) as sentinel:
            found: Any = await sentinel.execute_command(  # type: ignore[no-untyped-call] # of the client
                "SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._address.service
            )
        return None if found is None else (str(found[0]), int(found[1]))


class FollowsMaster(Connection):
    """A connection that looks up the master whenever it connects, and closes once its server has become a replica."""

    __slots__ = ()
    sentinels: Sentinels

    async def _connect(self) -> None:
        self.host, self.port = await self.sentinels.master()
        await super()._connect()  # type: ignore[no-untyped-call] # of the client

    async def read_response(self, *args: Any, **kwargs: Any) -> Any:
        """Read a reply. Raises ConnectionError if the server has become a replica."""
        try:
            return await super().read_response(*args, **kwargs)
        except ResponseError as error:
            if not is_read_only(error):
                raise
            # Kept, it would go on refusing every write.
            await self.disconnect(nowait=True)
            raise ConnectionError("the master has become a replica") from error
