"""A real Redis Cluster on loopback: three primaries with a third of the slots each, and replicas of some."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from redis import Redis
from redis.crc import key_slot

from relais_testing.tcp_ports import HOST, free_port
from relais_testing.valkey import ValkeyServer
from relais_testing.waiting import block_until

SLOTS = 16384
PRIMARIES = 3
FAIL_OVER_AFTER_MS = 3000
"""Silence after which the other nodes consider a node dead, where a replica is to take over from it."""
NEVER_MS = 600_000
"""Elsewhere, a node that stands still is waited for: the others would refuse all calls meanwhile."""


class Cluster:
    """The primaries, in the order of their slots, and the requested replicas."""

    def __init__(self, primaries: Sequence[ValkeyServer], replicas: Sequence[ValkeyServer]) -> None:
        self.primaries = primaries
        self.replicas = replicas

    @property
    def url(self) -> str:
        """Return the address for `REDIS_URL`."""
        return "redis+cluster://" + ",".join(f"{one.host}:{one.port}" for one in self.primaries)

    def primary_of(self, key: str) -> ValkeyServer:
        """Return the node that had the key at the start."""
        return self.primaries[key_slot(key.encode()) * PRIMARIES // SLOTS]

    def flush(self) -> None:
        """Delete all keys."""
        for one in self.primaries:
            with Redis.from_url(one.url) as redis:
                redis.flushall()


@contextmanager
def running_cluster(
    folder: Path, *, appendonly: bool = False, replica_of: str | None = None
) -> Iterator[Cluster]:
    """Yield a started cluster whose nodes agree on their slots.

    Args:
        replica_of: a key; the node that has it gets a replica.
    """
    with ExitStack() as stack:
        count = PRIMARIES + (replica_of is not None)
        timeout_ms = NEVER_MS if replica_of is None else FAIL_OVER_AFTER_MS
        servers = [
            stack.enter_context(_node(folder / f"node-{number}", appendonly, timeout_ms))
            for number in range(count)
        ]
        cluster = Cluster(servers[:PRIMARIES], servers[PRIMARIES:])
        for number, one in enumerate(cluster.primaries):
            first, end = (SLOTS * at // PRIMARIES for at in (number, number + 1))
            ask(one, "SET-CONFIG-EPOCH", number + 1)
            ask(one, "ADDSLOTSRANGE", first, end - 1)
        for one in servers[1:]:
            ask(one, "MEET", servers[0].host, servers[0].port, _bus_port(servers[0]))
        block_until(lambda: all(_agrees(one, count) for one in servers))
        if replica_of is not None:
            ask(servers[-1], "REPLICATE", ask(cluster.primary_of(replica_of), "MYID"))
            block_until(lambda: _follows(servers[-1]))
        yield cluster


def _node(folder: Path, appendonly: bool, timeout_ms: int) -> ValkeyServer:
    folder.mkdir(parents=True)
    options = {
        "cluster-enabled": "yes",
        # The default, the port and ten thousand, may be none.
        "cluster-port": str(free_port()),
        "cluster-node-timeout": str(timeout_ms),
    }
    return ValkeyServer(folder, appendonly=appendonly, options=options)


def ask(server: ValkeyServer, *words: str | int | bytes) -> Any:
    """Return a node's reply to `CLUSTER ...`."""
    with Redis(host=HOST, port=server.port) as redis:
        return redis.execute_command("CLUSTER", *words)


def _bus_port(server: ValkeyServer) -> int:
    own = next(line for line in ask(server, "NODES").split(b"\n") if b"myself" in line)
    return int(own.split()[1].partition(b"@")[2].partition(b",")[0])


def _agrees(server: ValkeyServer, count: int) -> bool:
    told = ask(server, "INFO")
    return b"cluster_state:ok" in told and b"cluster_known_nodes:%d\r" % count in told


def _follows(server: ValkeyServer) -> bool:
    with Redis(host=HOST, port=server.port) as redis:
        return bool(redis.info("replication")["master_link_status"] == "up")
