"""Connections follow the master: also those that are still open to one that has become a replica."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from redis import Redis

from relais_common.jobs.errors import StoreUnavailable
from relais_common.jobs.job import Idempotency, Job, Lease, StopReason
from relais_common.queue import keys
from relais_common.queue.client import failover
from relais_common.queue.redis_store import RedisSettings, open_store
from relais_testing.builders import make_job
from relais_testing.ports import Ports, redis_ports
from relais_testing.steps import finish, names, running, start
from relais_testing.valkey import ValkeyServer
from relais_testing.waiting import wait_until

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


Step = Callable[[Ports, Job, Lease], Awaitable[Any]]


async def _accept_again(ports: Ports, job: Job, _: Lease) -> None:
    accepted = await ports.intake.enqueue(
        make_job(), max_waiting=9, idempotency=Idempotency("another", "body")
    )
    assert not accepted.duplicate


async def _start(ports: Ports, job: Job, lease: Lease) -> None:
    assert (await start(ports, lease)).held
    assert await names(ports, job.channel_id) == ["queued", "started"]


async def _finish(ports: Ports, job: Job, lease: Lease) -> None:
    assert (await finish(ports, lease, 2)).held
    assert await names(ports, job.channel_id) == ["queued", "completed"]


async def _cancel(ports: Ports, job: Job, lease: Lease) -> None:
    await ports.intake.cancel(job.channel_id, StopReason.CLIENT)
    assert (await start(ports, lease)).stop is StopReason.CLIENT


@pytest.mark.parametrize("step", [_accept_again, _start, _finish, _cancel])
async def test_step_at_a_demoted_master_is_made_at_the_new_one(
    step: Step, pair: tuple[ValkeyServer, ValkeyServer], masters: list[ValkeyServer]
) -> None:
    old, new = pair
    async with open_store(RedisSettings(URL)) as store:
        ports, job = redis_ports(store), make_job()
        taken = await running(ports, job)
        with Redis.from_url(old.url) as old_redis, Redis.from_url(new.url) as new_redis:
            new_redis.replicaof(old.host, old.port)
            copied = keys.job(job.channel_id)
            await wait_until(lambda: new_redis.hget(copied, "status") == b"running")
            new_redis.replicaof("NO", "ONE")
            # Of a master that nobody can reach, so that it keeps what it has.
            old_redis.replicaof(old.host, 1)
        masters.append(new)

        await step(ports, job, taken.lease)


async def test_nobody_knows_a_master(masters: list[ValkeyServer]) -> None:
    masters.clear()
    async with open_store(RedisSettings(URL)) as store:
        with pytest.raises(StoreUnavailable):
            await store.signing_secret()
