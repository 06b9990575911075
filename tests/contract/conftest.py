"""One suite, three stores: tests that take `ports` run over memory, over Redis, and over a Redis Cluster."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from relais_common.queue.client import connection
from relais_common.queue.recovery import redis_recovery
from relais_common.queue.redis_store import RedisSettings, RedisStore, open_store
from relais_common.queue.source import redis_source
from relais_testing.cluster import Cluster, running_cluster
from relais_testing.ports import Ports, memory_ports, redis_ports
from relais_testing.waiting import LIVENESS_S


@pytest.fixture(autouse=True)
def _busy_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A reaper's pass may be late here, and a pop may block for long: what these tests are of is not how soon."""
    monkeypatch.setattr(redis_recovery, "LATEST_S", 3600.0)
    for module in (connection, redis_source):
        monkeypatch.setattr(module, "LONGEST_BLOCK_S", LIVENESS_S)


@pytest.fixture(params=["memory", "redis", "cluster"])
def ports(request: pytest.FixtureRequest) -> Ports:
    if request.param == "memory":
        return memory_ports(request.getfixturevalue("memory_store"))
    store: RedisStore = request.getfixturevalue(f"{request.param}_store")
    return redis_ports(store)


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """One for the whole run."""
    with running_cluster(tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster


@pytest.fixture
async def cluster_store(cluster: Cluster) -> AsyncIterator[RedisStore]:
    """Every port over the cluster, with nothing on it."""
    cluster.flush()
    async with open_store(RedisSettings(cluster.url)) as store:
        yield store
