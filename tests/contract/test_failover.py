"""Connections follow the master: also those that are still open to one that has become a replica."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from redis import Redis

from relais_common.jobs.errors import StoreUnavailable
from relais_common.queue.client import failover
from relais_common.queue.redis_store import RedisSettings, open_store
from relais_testing.valkey import ValkeyServer

URL = "redis+sentinel://sentinel/relais"


@pytest.fixture
def pair(make_redis_server: Callable[..., ValkeyServer]) -> tuple[ValkeyServer, ValkeyServer]:
    return make_redis_server(), make_redis_server()


@pytest.fixture
def masters(
    pair: tuple[ValkeyServer, ValkeyServer], monkeypatch: pytest.MonkeyPatch
) -> list[ValkeyServer]:
    """What the Sentinels say: the last of the list."""
    said = [pair[0]]

    async def ask(*_: object) -> tuple[str, int] | None:
        return (said[-1].host, said[-1].port) if said else None

    monkeypatch.setattr(failover.Sentinels, "_ask", ask)
    return said


async def test_write_to_a_demoted_master_is_made_at_the_new_one(
    pair: tuple[ValkeyServer, ValkeyServer], masters: list[ValkeyServer]
) -> None:
    old, new = pair
    async with open_store(RedisSettings(URL)) as store:
        first = await store.signing_secret()  # a connection is open
        with Redis.from_url(old.url) as redis:
            redis.replicaof(new.host, new.port)
        masters.append(new)

        second = await store.signing_secret()

        assert await store.signing_secret() == second
    with Redis.from_url(new.url) as redis:
        assert redis.dbsize() > 0
    assert first != second  # nothing was copied, so that a new one had to be made there


async def test_nobody_knows_a_master(masters: list[ValkeyServer]) -> None:
    masters.clear()
    async with open_store(RedisSettings(URL)) as store:
        with pytest.raises(StoreUnavailable):
            await store.signing_secret()
