"""Knows which node of a Redis Cluster has which slots."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from typing import Any

import structlog
from redis.asyncio import Redis
from redis.crc import key_slot
from redis.exceptions import ConnectionError, RedisError

from relais_common.queue.client.clusters import ClusterAddress

log = structlog.get_logger(__name__)

Node = tuple[str, int]

ASK_TIMEOUT_S = 1.0
"""Timeout of one node, after which the next one is asked."""


@dataclass(frozen=True, slots=True)
class _Span:
    """Consecutive slots, both ends included, and their primary."""

    first: int
    last: int
    node: Node


class Topology:
    """The slots as the cluster last reported them; empty before that."""

    def __init__(self, address: ClusterAddress) -> None:
        self._address = address
        self._spans: list[_Span] = []
        self._nodes: list[Node] = []
        self._turn = 0

    @property
    def nodes(self) -> list[Node]:
        """Return the nodes that have slots, or else those of the address."""
        return self._nodes or list(self._address.nodes)

    def url_of(self, node: Node) -> str:
        """Return the URL of a node."""
        return self._address.url_of(node)

    def node_of(self, key: str | bytes) -> Node | None:
        """Return the node that has this key; None if unknown."""
        slot = key_slot(key if isinstance(key, bytes) else key.encode())
        at = bisect_right(self._spans, slot, key=lambda span: span.first) - 1
        if at < 0 or slot > self._spans[at].last:
            return None
        return self._spans[at].node

    def next_node(self) -> Node:
        """Return the nodes in turn, one per call."""
        nodes = self.nodes
        self._turn += 1
        return nodes[self._turn % len(nodes)]

    def forget(self) -> None:
        """Forget the slots, which may have moved."""
        self._spans = []

    async def refresh(self) -> None:
        """Ask the nodes in turn for the slots. Raises redis-py's ConnectionError if none answers."""
        for node in dict.fromkeys((*self._nodes, *self._address.nodes)):
            try:
                answer = await self._ask(node)
            except (RedisError, OSError):
                continue
            spans = sorted((_span(item, node) for item in answer), key=lambda span: span.first)
            if spans:
                nodes = list(dict.fromkeys(one.node for one in spans))
                if self._nodes and set(nodes) != set(self._nodes):
                    log.warning("redis_cluster_changed", primaries=len(nodes))
                self._spans, self._nodes = spans, nodes
                return
        raise ConnectionError("no node of the cluster knows who has which slots")

    async def _ask(self, node: Node) -> list[Any]:
        async with Redis.from_url(
            self.url_of(node),
            socket_timeout=ASK_TIMEOUT_S,
            socket_connect_timeout=ASK_TIMEOUT_S,
            single_connection_client=True,
        ) as redis:
            answer: Any = await redis.execute_command("CLUSTER", "SLOTS")  # type: ignore[no-untyped-call] # of the client
        return list(answer)


def _span(item: Any, asked: Node) -> _Span:
    first, last, primary = item[:3]
    host, port = primary[:2]
    # A node that does not know its own name leaves it out.
    return _Span(int(first), int(last), ((host or b"").decode() or asked[0], int(port)))
