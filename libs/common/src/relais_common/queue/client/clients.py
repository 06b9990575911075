"""The client's own connections, for what may not share one: blocking pops, subscriptions, waits for replicas."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Protocol

from redis.asyncio import Redis
from redis.exceptions import AskError, ConnectionError, TimeoutError

from relais_common.jobs.errors import StoreUnavailable
from relais_common.queue.client.topology import Node, Topology


class Clients(Protocol):
    """Whose Redis has which key."""

    def of(self, key: str) -> AbstractAsyncContextManager[Redis]:
        """A client of the server that has this key. Raises what the client raises where none can be found."""
        ...

    async def aclose(self) -> None: ...


class OneServer:
    """One client for all keys."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    @asynccontextmanager
    async def of(self, key: str) -> AsyncIterator[Redis]:
        yield self._redis

    async def aclose(self) -> None:
        await self._redis.aclose()


class ClusterNodes:
    """A client for each node that was asked for so far. After an error who has what is asked anew.

    Args:
        connect: to one node.
    """

    def __init__(self, topology: Topology, connect: Callable[[str], Redis]) -> None:
        self._topology = topology
        self._connect = connect
        self._of: dict[Node, Redis] = {}

    @asynccontextmanager
    async def of(self, key: str) -> AsyncIterator[Redis]:
        if self._topology.node_of(key) is None:
            await self._topology.refresh()
        node = self._topology.node_of(key)
        if node is None:
            raise ConnectionError("no node of the cluster has this key's slot")
        if node not in self._of:
            self._of[node] = self._connect(self._topology.url_of(node))
        try:
            yield self._of[node]
        except (AskError, ConnectionError, TimeoutError, StoreUnavailable):
            self._topology.forget()
            raise

    async def aclose(self) -> None:
        for redis in self._of.values():
            await redis.aclose()
