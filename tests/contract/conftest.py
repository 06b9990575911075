"""One suite, three stores: tests that take `ports` run over memory, over Redis, and over a Redis Cluster."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from relais_common.queue.recovery import redis_recovery
from relais_common.queue.redis_store import RedisSettings, RedisStore, open_store
from relais_testing.cluster import Cluster, running_cluster
from relais_testing.ports import Ports, memory_ports, redis_ports


@pytest.fixture(autouse=True)
def _busy_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A reaper's pass may be late here: these tests are of what it does, and the machine may be busy."""
    monkeypatch.setattr(redis_recovery, "LATEST_S", 3600.0)


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
