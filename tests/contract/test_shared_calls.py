"""Steps that begin in one turn of the event loop share a call; each job has its own answer and its own error."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from redis.exceptions import ResponseError

from relais_common.jobs.errors import IdempotencyConflict, TooManyInFlight
from relais_common.jobs.job import Accepted, Idempotency, Job, OnDisconnect, Verdict
from relais_common.queue import keys
from relais_common.queue.client.scripting import MOST_JOBS
from relais_common.queue.redis_store import RedisStore
from relais_testing.builders import MODEL, make_job
from relais_testing.ports import Ports, redis_ports
from relais_testing.script_faults import check_ends, check_whole, faulty_ports
from relais_testing.steps import enqueue, finish, names, reap, start, take

COUNT = MOST_JOBS + 3


async def scripts_run(redis: Any) -> int:
    stats = await redis.info("commandstats")
    return sum(stats.get(f"cmdstat_{name}", {"calls": 0})["calls"] for name in ("eval", "evalsha"))


@pytest.fixture
def ports(redis_store: RedisStore) -> Ports:
    return redis_ports(redis_store)


async def test_each_job_of_a_turn_is_accepted_started_and_ended_in_shared_calls(
    ports: Ports, redis_store: RedisStore
) -> None:
    redis: Any = redis_store.redis
    jobs = [make_job() for _ in range(COUNT)]
    # Scripts that the server does not know yet are sent twice.
    for warm_up in (True, False):
        before = await scripts_run(redis)
        accepted = await asyncio.gather(*(enqueue(ports, job) for job in jobs))
        taken = await take(ports, COUNT)
        started = await asyncio.gather(*(start(ports, one.lease) for one in taken))
        ended = await asyncio.gather(*(finish(ports, one.lease, 3) for one in taken))
        if not warm_up:
            assert await scripts_run(redis) - before == 3 * 2 + 1
        assert [one.channel_id for [one] in accepted] == [job.channel_id for job in jobs]
        assert [one.queue_position for [one] in accepted] == list(range(1, COUNT + 1))
        assert [verdict.tail for verdict in started] == [2] * COUNT
        assert [verdict.tail for verdict in ended] == [3] * COUNT
        assert [one.job.channel_id for one in taken] == [job.channel_id for job in jobs]
        for job in jobs:
            assert await names(ports, job.channel_id) == ["queued", "started", "completed"]
        jobs = [make_job() for _ in range(COUNT)]
    await check_whole(redis)


async def test_a_refusal_is_that_of_its_job_only(ports: Ports) -> None:
    async def ask(job: Job, body_hash: str) -> Accepted:
        return await ports.intake.enqueue(
            job,
            max_waiting=10,
            max_inflight_per_key=1,
            idempotency=Idempotency("h", body_hash),
        )

    first, same, other, second = await asyncio.gather(
        ask(make_job("a"), "x"),
        ask(make_job("a"), "x"),
        ask(make_job("a"), "y"),
        ports.intake.enqueue(make_job("a"), max_waiting=10, max_inflight_per_key=1),
        return_exceptions=True,
    )
    assert isinstance(first, Accepted)
    assert isinstance(same, Accepted)
    assert same.duplicate
    assert same.channel_id == first.channel_id
    assert isinstance(other, IdempotencyConflict)
    assert isinstance(second, TooManyInFlight)


async def test_an_error_is_that_of_its_job_only(redis_store: RedisStore) -> None:
    ports, _ = faulty_ports(redis_store)
    redis: Any = redis_store.redis
    jobs = [make_job(on_disconnect=OnDisconnect.CANCEL) for _ in range(3)]
    await enqueue(ports, *jobs)
    taken = await take(ports, 3)
    poisoned = keys.job(taken[1].job.channel_id)
    await redis.hset(poisoned, "log_ttl_s", "soon")
    verdicts = await asyncio.gather(
        *(finish(ports, one.lease, 2) for one in taken), return_exceptions=True
    )
    assert [type(verdict) for verdict in verdicts] == [Verdict, ResponseError, Verdict]
    await redis.hset(poisoned, "log_ttl_s", "60")
    assert (await finish(ports, taken[1].lease, 2)).tail == 2
    await reap(ports)
    await check_whole(redis)
    await check_ends(ports, redis)


async def test_a_caller_that_leaves_in_the_same_turn_queues_nothing(ports: Ports) -> None:
    stays, leaves = make_job(), make_job()
    staying = asyncio.create_task(enqueue(ports, stays))
    leaving = asyncio.create_task(enqueue(ports, leaves))
    await asyncio.sleep(0)
    leaving.cancel()
    await staying
    assert await ports.intake.state(leaves.channel_id) is None
    assert (await ports.intake.depth(MODEL)).waiting == 1
