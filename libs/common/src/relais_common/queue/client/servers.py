"""One server, or a cluster of them: how each part of the store reaches it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace

from redis.asyncio import Redis

from relais_common.queue.client import clusters
from relais_common.queue.client.calls import Calls, Commands
from relais_common.queue.client.clients import Clients, ClusterNodes, OneServer
from relais_common.queue.client.cluster_calls import ClusterCalls
from relais_common.queue.client.connection import (
    RedisSettings,
    connect,
    connect_blocking,
    connect_for_calls,
)
from relais_common.queue.client.link import Link, links
from relais_common.queue.client.topology import Topology


@dataclass(frozen=True, slots=True)
class Servers:
    """Ways there. All connect lazily.

    Attributes:
        calls: for all that is short; trace_calls: for traces, which come in long answers, so that nothing else waits
            behind them. Both must `run`.
        blocking: for pops and subscriptions of one model that block.
        waiting: for acceptances that wait for a disk or replicas: each keeps a connection busy.
        make_link: for live messages. A cluster hands them on to all its nodes: any will do, and after a loss another.
        redis: of one server, for whoever must look behind the ports.
    """

    calls: Commands
    trace_calls: Commands
    blocking: Clients
    waiting: Clients
    make_link: Callable[[], Link]
    redis: Redis


@asynccontextmanager
async def reach(settings: RedisSettings, *, longest_wait_s: float) -> AsyncIterator[Servers]:
    """By the settings' URL.

    Args:
        longest_wait_s: of an acceptance.
    """
    patient = replace(settings, timeout_s=settings.timeout_s + longest_wait_s)
    if settings.url.startswith(clusters.SCHEMES):
        servers = _cluster(settings, patient)
    else:
        servers = Servers(
            calls=connect_for_calls(settings),
            trace_calls=connect_for_calls(settings),
            blocking=OneServer(connect_blocking(settings)),
            waiting=OneServer(connect(patient)),
            make_link=links(settings.url),
            redis=connect(settings),
        )
    async with AsyncExitStack() as stack:
        for client in (servers.redis, servers.waiting, servers.blocking):
            stack.push_async_callback(client.aclose)
        yield servers


def _cluster(settings: RedisSettings, patient: RedisSettings) -> Servers:
    topology = Topology(clusters.parse(settings.url))

    def calls_to(url: str) -> Calls:
        return connect_for_calls(replace(settings, url=url))

    def make_calls() -> ClusterCalls:
        return ClusterCalls(topology, calls_to, timeout_s=settings.timeout_s)

    return Servers(
        calls=make_calls(),
        trace_calls=make_calls(),
        blocking=ClusterNodes(topology, lambda url: connect_blocking(replace(settings, url=url))),
        waiting=ClusterNodes(topology, lambda url: connect(replace(patient, url=url))),
        make_link=lambda: links(topology.url_of(topology.next_node()))(),
        redis=connect(replace(settings, url=topology.url_of(topology.next_node()))),
    )
