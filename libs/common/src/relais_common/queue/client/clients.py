"""redis-py's own clients, for what cannot share a connection: blocking pops, subscriptions, waits for replicas."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Protocol

from redis.asyncio import Redis
from redis.exceptions import AskError, ConnectionError, TimeoutError

from relais_common.jobs.errors import StoreUnavailable
from relais_common.queue.client.topology import Node, Topology


class Clients(Protocol):
    """Finds the Redis that has a key."""

    def of(self, key: str) -> AbstractAsyncContextManager[Redis]:
        """Return a client of the server that has this key. Raises redis-py's errors if there is none."""
        ...

    async def aclose(self) -> None:
        """Close all connections."""


class OneServer:
    """Uses one client for all keys."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    @asynccontextmanager
    async def of(self, key: str) -> AsyncIterator[Redis]:
        yield self._redis

    async def aclose(self) -> None:
        await self._redis.aclose()


class ClusterNodes:
    """Keeps a client for each cluster node in use. After an error, the slots are looked up again.

    Args:
        connect: returns a client of one node, by its URL.
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
