"""Steps that begin in one turn of the event loop share a call; each job has its own answer and its own error."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from typing import Any

import pytest
from redis.exceptions import ResponseError

from relais_common.jobs.errors import IdempotencyConflict, StoreUnavailable, TooManyInFlight
from relais_common.jobs.job import Accepted, Idempotency, Job, OnDisconnect, Verdict
from relais_common.queue import keys
from relais_common.queue.client.packing import Argument
from relais_common.queue.client.scripting import MOST_BYTES, MOST_JOBS, Scripts
from relais_common.queue.redis_store import RedisSettings, RedisStore, open_store
from relais_testing.builders import MODEL, make_job
from relais_testing.ports import Ports, redis_ports
from relais_testing.reply_eater import ReplyEater
from relais_testing.script_faults import check_ends, check_whole, faulty_ports
from relais_testing.steps import enqueue, finish, ids, names, reap, start, take
from relais_testing.valkey import ValkeyServer
from relais_testing.waiting import wait_until

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


async def test_large_jobs_share_no_call(ports: Ports, redis_store: RedisStore) -> None:
    await enqueue(ports, make_job())  # the server knows the script from here
    jobs = [make_job(prompt="long " * (MOST_BYTES // 5)) for _ in range(3)]
    before = await scripts_run(redis_store.redis)
    accepted = await asyncio.gather(*(enqueue(ports, job) for job in jobs))
    assert await scripts_run(redis_store.redis) - before == len(jobs)
    assert [one.channel_id for [one] in accepted] == ids(jobs)


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


async def test_an_error_of_enqueue_or_start_is_that_of_its_job_only(
    redis_store: RedisStore,
) -> None:
    ports, _ = faulty_ports(redis_store)
    redis: Any = redis_store.redis
    jobs = [make_job(on_disconnect=OnDisconnect.CANCEL) for _ in range(3)]
    poisoned = keys.idempotency(MODEL, jobs[1].key_id, "1")
    await redis.rpush(poisoned, "no string")

    async def ask(number: int) -> Accepted:
        one = Idempotency(str(number), "body")
        return await ports.intake.enqueue(jobs[number], max_waiting=10, idempotency=one)

    accepted = await asyncio.gather(*map(ask, range(3)), return_exceptions=True)
    assert [type(one) for one in accepted] == [Accepted, ResponseError, Accepted]
    await redis.delete(poisoned)
    assert not (await ask(1)).duplicate

    taken = await take(ports, 3)
    poisoned = keys.log(taken[1].job.channel_id)
    await redis.rename(poisoned, "put-aside")
    await redis.set(poisoned, "no list")
    started = await asyncio.gather(
        *(start(ports, one.lease) for one in taken), return_exceptions=True
    )
    assert [type(one) for one in started] == [Verdict, ResponseError, Verdict]
    await redis.rename("put-aside", poisoned)
    assert (await start(ports, taken[1].lease)).tail == 2
    await reap(ports)
    await check_whole(redis)
    for one in taken:
        assert (await finish(ports, one.lease, 3)).tail == 3
    await check_ends(ports, redis)


async def test_an_argument_that_cannot_be_sent_is_that_of_its_job_only(ports: Ports) -> None:
    await enqueue(ports, *(make_job() for _ in range(3)))
    taken = await take(ports, 3)
    texts = ["one", "half a character: \ud800", "two"]
    verdicts = await asyncio.gather(
        *(finish(ports, one.lease, 2, text=text) for one, text in zip(taken, texts, strict=True)),
        return_exceptions=True,
    )
    assert [type(verdict) for verdict in verdicts] == [Verdict, UnicodeEncodeError, Verdict]


async def test_a_shared_call_whose_reply_is_lost_is_sent_again_for_all(
    redis_url: str, redis_server: ValkeyServer
) -> None:
    async with (
        ReplyEater(redis_server.host, redis_server.port) as eater,
        open_store(RedisSettings(eater.url)) as store,
    ):
        ports, jobs = redis_ports(store), [make_job() for _ in range(3)]
        for script in ("enqueue", "start", "finish"):
            eater.eat(script)
        accepted = await asyncio.gather(*(enqueue(ports, job) for job in jobs))
        assert [one.channel_id for [one] in accepted] == ids(jobs)
        taken = await take(ports, 9)
        assert ids(taken) == ids(jobs)
        started = await asyncio.gather(*(start(ports, one.lease) for one in taken))
        assert started == [Verdict(held=True, tail=2)] * 3
        ended = await asyncio.gather(*(finish(ports, one.lease, 3) for one in taken))
        assert ended == [Verdict(held=True, tail=3)] * 3
        for job in jobs:
            assert await names(ports, job.channel_id) == ["queued", "started", "completed"]
        assert eater.eaten == {"enqueue": 1, "start": 1, "finish": 1}


async def test_each_model_has_its_own_call(ports: Ports, redis_store: RedisStore) -> None:
    await enqueue(ports, make_job(), make_job())  # the server knows the script from here
    jobs = [make_job(model=model) for model in ("one", "other") for _ in range(2)]
    before = await scripts_run(redis_store.redis)
    accepted = await asyncio.gather(*(enqueue(ports, job) for job in jobs))
    assert await scripts_run(redis_store.redis) - before == 2
    assert [one.channel_id for [one] in accepted] == ids(jobs)
    for model in ("one", "other"):
        assert ids(await take(ports, 9, model=model)) == [
            job.channel_id for job in jobs if job.model == model
        ]


async def test_each_caller_is_told_that_redis_is_gone(
    make_redis_server: Callable[..., ValkeyServer],
) -> None:
    server = make_redis_server()
    async with open_store(RedisSettings(server.url)) as store:
        ports = redis_ports(store)
        await enqueue(ports, make_job())
        server.kill()
        errors = await asyncio.gather(
            *(enqueue(ports, make_job()) for _ in range(3)), return_exceptions=True
        )
    assert [type(error) for error in errors] == [StoreUnavailable] * 3
    assert len(set(map(id, errors))) == 3


class UnansweredCalls:
    """Calls that were sent, and whose replies the test gives."""

    def __init__(self) -> None:
        self.sent: list[asyncio.Future[Any]] = []

    def send(self, *words: Argument) -> asyncio.Future[Any]:
        self.sent.append(asyncio.get_running_loop().create_future())
        return self.sent[-1]

    async def run(self) -> None:
        raise NotImplementedError


async def test_a_shared_call_goes_on_for_those_that_remain_and_ends_with_the_last() -> None:
    calls = UnansweredCalls()
    shared = Scripts(calls)
    leaves, stays, leaves_last = [
        asyncio.create_task(shared.run_for_one("start", "base", number)) for number in range(3)
    ]
    await wait_until(lambda: calls.sent)
    [call] = calls.sent
    leaves.cancel()
    await asyncio.wait([leaves])
    call.set_result(["nobody's", "mine", "yours"])
    assert (await stays, await leaves_last) == ("mine", "yours")

    callers = [asyncio.create_task(shared.run_for_one("start", "base", 1)) for _ in range(2)]
    await wait_until(lambda: len(calls.sent) == 2)
    for caller in callers:
        assert not calls.sent[1].cancelled()
        caller.cancel()
        await asyncio.wait([caller])
    await wait_until(calls.sent[1].cancelled)


async def test_what_all_callers_have_left_before_redis_is_reached_is_not_done(
    make_redis_server: Callable[..., ValkeyServer],
) -> None:
    server = make_redis_server()
    async with open_store(RedisSettings(server.url)) as store:
        ports, jobs = redis_ports(store), [make_job() for _ in range(2)]
        os.kill(server.pid, signal.SIGSTOP)
        callers = [asyncio.create_task(enqueue(ports, job)) for job in jobs]
        for _ in range(5):  # the call waits for its connection now
            await asyncio.sleep(0)
        for caller in callers:
            caller.cancel()
        await asyncio.wait(callers)
        os.kill(server.pid, signal.SIGCONT)
        stays = make_job()
        await enqueue(ports, stays)
        assert ids(await take(ports, 9)) == [stays.channel_id]


async def test_a_caller_that_leaves_in_the_same_turn_queues_nothing(ports: Ports) -> None:
    stays, leaves = make_job(), make_job()
    staying = asyncio.create_task(enqueue(ports, stays))
    leaving = asyncio.create_task(enqueue(ports, leaves))
    await asyncio.sleep(0)
    leaving.cancel()
    await staying
    assert await ports.intake.state(leaves.channel_id) is None
    assert (await ports.intake.depth(MODEL)).waiting == 1
