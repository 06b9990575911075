"""The primary is killed under load; Sentinels make its replica the primary; streams go on, and nothing is lost."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from redis import Redis

from relais_testing.failing_over import assert_streams_go_on
from relais_testing.sentinels import Sentinels, running_sentinels
from relais_testing.valkey import ValkeyServer
from relais_testing.waiting import block_until, wait_until


@pytest.fixture
def pair(make_redis_server: Callable[..., ValkeyServer]) -> tuple[ValkeyServer, ValkeyServer]:
    """A primary, and a replica that has all of it."""
    primary = make_redis_server(appendonly=True)
    replica = make_redis_server(appendonly=True)
    with Redis.from_url(replica.url) as redis:
        redis.replicaof(primary.host, primary.port)
        block_until(lambda: redis.info("replication")["master_link_status"] == "up")
    return primary, replica


@pytest.fixture
def sentinels(pair: tuple[ValkeyServer, ValkeyServer], tmp_path: Path) -> Iterator[Sentinels]:
    with running_sentinels(pair[0], tmp_path) as sentinels:
        yield sentinels


async def test_streams_go_on_at_the_replica_to_the_letter(
    pair: tuple[ValkeyServer, ValkeyServer], sentinels: Sentinels
) -> None:
    primary, replica = pair

    async def ready() -> bool:
        return await asyncio.to_thread(sentinels.know_each_other_and_the_replica)

    await wait_until(ready)

    async def failed_over() -> bool:
        return await asyncio.to_thread(sentinels.master_port) == replica.port

    await assert_streams_go_on(sentinels.url, primary.kill, failed_over)
