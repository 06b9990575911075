"""Opens the connections of each part of the store, to one server or a cluster."""

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
    """The connections of a store. All connect lazily.

    Attributes:
        calls: for everything short. Must `run`.
        trace_calls: for traces, whose replies are long, so that nothing else waits behind them. Must `run`.
        blocking: for pops and subscriptions, which block.
        waiting: for acceptances that wait for the disk or for replicas; each occupies a connection.
        make_link: for live messages. In a cluster, every node gets them: any will do, and after a failure another.
        redis: a client of one server, for what the ports do not offer.
    """

    calls: Commands
    trace_calls: Commands
    blocking: Clients
    waiting: Clients
    make_link: Callable[[], Link]
    redis: Redis


@asynccontextmanager
async def reach(settings: RedisSettings, *, longest_wait_s: float) -> AsyncIterator[Servers]:
    """Open the connections that the settings name.

    Args:
        longest_wait_s: longest wait of an acceptance.
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
