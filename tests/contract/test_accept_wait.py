"""With `ACCEPT_WAIT_*` an accepted job is on the disk, or at a replica, before its client hears of it."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, cast

import pytest
from redis import Redis
from redis.exceptions import ResponseError

from relais_common.jobs.errors import IdempotencyConflict, NotConfirmed, QueueFull
from relais_common.jobs.job import Idempotency, Status
from relais_common.queue import keys
from relais_common.queue.redis_store import AcceptWait, RedisSettings, RedisStore, open_store
from relais_testing.builders import make_job
from relais_testing.ports import Ports, redis_ports
from relais_testing.power_loss import lose_power, written
from relais_testing.steps import enqueue, ids, take
from relais_testing.valkey import ValkeyServer
from relais_testing.waiting import LIVENESS_S, wait_until

MakeServer = Callable[..., ValkeyServer]
KEY = Idempotency("key", "body")


@asynccontextmanager
async def store_of(
    server: ValkeyServer, *, fsync: bool = False, replicas: int = 0, timeout_s: float = LIVENESS_S
) -> AsyncIterator[RedisStore]:
    wait = AcceptWait(fsync=fsync, replicas=replicas, timeout_s=timeout_s)
    async with open_store(RedisSettings(server.url), accept_wait=wait) as store:
        yield store


@contextmanager
def frozen(server: ValkeyServer) -> Iterator[None]:
    os.kill(server.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(server.pid, signal.SIGCONT)


async def replica_of(primary: ValkeyServer, make_redis_server: MakeServer) -> ValkeyServer:
    options = {"replicaof": f"{primary.host} {primary.port}"}
    replica = make_redis_server(appendonly=True, options=options)

    def online() -> bool:
        with Redis.from_url(primary.url) as redis:
            return bool("online" in str(redis.info("replication").get("slave0")))

    await wait_until(online)
    return replica


def promote(replica: ValkeyServer) -> None:
    with Redis.from_url(replica.url) as redis:
        redis.replicaof("NO", "ONE")


async def test_accepted_jobs_survive_a_loss_of_power_where_the_file_is_synchronised(
    make_redis_server: MakeServer,
) -> None:
    server = make_redis_server(appendonly=True, options={"appendfsync": "always"})
    async with store_of(server, fsync=True) as store:
        ports = redis_ports(store)
        jobs = [make_job() for _ in range(5)]
        await enqueue(ports, *jobs)
        lose_power(server, written(server))
        await asyncio.to_thread(server.start)
        assert ids(await take(ports, 10)) == ids(jobs)


async def test_accepted_jobs_survive_the_loss_of_the_primary(make_redis_server: MakeServer) -> None:
    primary = make_redis_server(appendonly=True)
    replica = await replica_of(primary, make_redis_server)
    jobs = [make_job() for _ in range(5)]
    async with store_of(primary, fsync=True, replicas=1) as store:
        await enqueue(redis_ports(store), *jobs)
    primary.kill()
    promote(replica)
    async with open_store(RedisSettings(replica.url)) as store:
        assert ids(await take(redis_ports(store), 10)) == ids(jobs)


@pytest.mark.parametrize("fsync", [False, True])
async def test_replica_that_says_nothing_is_not_taken_for_one_that_has_it(
    make_redis_server: MakeServer, fsync: bool
) -> None:
    primary = make_redis_server(appendonly=True)
    replica = await replica_of(primary, make_redis_server)
    async with store_of(primary, fsync=fsync, replicas=1, timeout_s=0.2) as store:
        ports = redis_ports(store)
        with frozen(replica):
            job = make_job()
            with pytest.raises(NotConfirmed) as refused:
                await ports.intake.enqueue(job, max_waiting=10, idempotency=KEY)
            assert (refused.value.status, refused.value.code) == (503, "not_confirmed")
            assert refused.value.retry_after_s
            # Nor the second time, though then nothing new is written.
            with pytest.raises(NotConfirmed):
                await ports.intake.enqueue(make_job(), max_waiting=10, idempotency=KEY)

        async def confirmed() -> str | None:
            try:
                again = await ports.intake.enqueue(make_job(), max_waiting=10, idempotency=KEY)
            except NotConfirmed:
                return None
            return again.channel_id

        # The same job, however often its client came back.
        assert await wait_until(confirmed) == job.channel_id
        assert ids(await take(ports, 10)) == [job.channel_id]


async def test_job_that_is_not_confirmed_and_that_nobody_can_find_again_does_not_run(
    make_redis_server: MakeServer,
) -> None:
    server = make_redis_server()
    async with store_of(server, replicas=1, timeout_s=0.05) as store:
        ports = redis_ports(store)
        job, findable = make_job(), make_job()
        with pytest.raises(NotConfirmed):
            await ports.intake.enqueue(job, max_waiting=10)
        with pytest.raises(NotConfirmed):
            await ports.intake.enqueue(findable, max_waiting=10, idempotency=KEY)
        assert await status_of(ports, job.channel_id) is Status.CANCELLED
        assert await status_of(ports, findable.channel_id) is Status.QUEUED


async def status_of(ports: Ports, channel_id: str) -> Status | None:
    state = await ports.intake.state(channel_id)
    return None if state is None else state.status


async def test_disk_that_nothing_is_written_to_confirms_nothing(
    make_redis_server: MakeServer,
) -> None:
    async with store_of(make_redis_server(), fsync=True) as store:
        with pytest.raises(NotConfirmed):
            await enqueue(redis_ports(store), make_job())


async def test_refusals_are_told_as_ever(make_redis_server: MakeServer) -> None:
    async with store_of(make_redis_server(appendonly=True), fsync=True) as store:
        ports = redis_ports(store)
        await ports.intake.enqueue(make_job(), max_waiting=1, idempotency=KEY)
        with pytest.raises(QueueFull):
            await enqueue(ports, make_job(), max_waiting=1)
        with pytest.raises(IdempotencyConflict):
            other = Idempotency("key", "another body")
            await ports.intake.enqueue(make_job(), max_waiting=1, idempotency=other)


async def test_error_of_the_script_is_told_as_ever(make_redis_server: MakeServer) -> None:
    async with store_of(make_redis_server(appendonly=True), fsync=True) as store:
        ports, redis = redis_ports(store), cast("Any", store.redis)
        job = make_job()
        poisoned = keys.idempotency(job.model, job.key_id, KEY.key_hash)
        await redis.rpush(poisoned, "no string")
        with pytest.raises(ResponseError, match="WRONGTYPE"):
            await ports.intake.enqueue(job, max_waiting=1, idempotency=KEY)
        assert await ports.intake.state(job.channel_id) is None
        await redis.delete(poisoned)
        await ports.intake.enqueue(job, max_waiting=1, idempotency=KEY)


async def test_waiting_accepts_keep_no_other_command_from_its_connection(
    make_redis_server: MakeServer,
) -> None:
    server = make_redis_server()
    wait = AcceptWait(replicas=1, timeout_s=LIVENESS_S)
    async with open_store(RedisSettings(server.url, max_connections=2), accept_wait=wait) as store:
        ports = redis_ports(store)
        waiting = [asyncio.create_task(enqueue(ports, make_job())) for _ in range(2)]

        async def blocked() -> bool:
            return bool((await store.redis.info("clients"))["blocked_clients"] == 2)

        await wait_until(blocked)  # asks over the other connections meanwhile
        for task in waiting:
            task.cancel()
        await asyncio.wait(waiting)
