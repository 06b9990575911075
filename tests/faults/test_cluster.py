"""The primary that has a model is killed under load; its replica takes over; streams go on, and nothing is lost."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis import Redis

from relais_common.queue import keys
from relais_testing.builders import MODEL
from relais_testing.cluster import Cluster, running_cluster
from relais_testing.failing_over import assert_streams_go_on


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with running_cluster(tmp_path, appendonly=True, replica_of=keys.model_base(MODEL)) as cluster:
        yield cluster


async def test_streams_go_on_at_the_replica_to_the_letter(cluster: Cluster) -> None:
    def took_over() -> bool:
        with Redis.from_url(cluster.replicas[0].url) as redis:
            return bool(redis.info("replication")["role"] == "master")

    await assert_streams_go_on(
        cluster.url,
        cluster.primary_of(keys.model_base(MODEL)).kill,
        lambda: asyncio.to_thread(took_over),
    )
