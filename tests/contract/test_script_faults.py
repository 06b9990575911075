"""Every script fails at every command; what comes next finds the state whole."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from redis.exceptions import ResponseError

from relais_common.jobs.channels import new_channel_id
from relais_common.jobs.events import Usage
from relais_common.jobs.job import Idempotency, Job, OnDisconnect, Priority, StopReason
from relais_common.jobs.limits import Quota
from relais_common.jobs.records import ApiRecord
from relais_common.queue import keys, scripts
from relais_common.queue.ports import TakeRequest
from relais_common.queue.redis_store import RedisStore
from relais_testing.builders import COMPLETED, MODEL, make_job, picture, token_line
from relais_testing.ports import Ports
from relais_testing.script_faults import HIT, check_ends, check_whole, end_everything, faulty_ports
from relais_testing.steps import (
    LONG_S,
    append,
    crash,
    finish,
    let_expire,
    names,
    reap,
    start,
    take,
    take_one,
)
from relais_testing.traced import WITH_CONTENT

Step = Callable[[], Awaitable[Any]]
Scenario = Callable[[Ports, Any], Awaitable[Step]]
SCENARIOS: dict[str, tuple[str, Scenario]] = {}


def scenario(name: str) -> Callable[[Scenario], Scenario]:
    """Brings about a state, and returns the call in which this script is to fail."""

    def note(build: Scenario) -> Scenario:
        SCENARIOS[build.__name__] = (name, build)
        return build

    return note


async def ask(ports: Ports, job: Job | None = None, **more: Any) -> Job:
    if job is None:
        job = make_job(on_disconnect=OnDisconnect.CANCEL, messages=(picture(),))
    defaults = {"tracing": WITH_CONTENT, "max_waiting": 100, "max_stored_bytes": 1 << 30}
    quota = Quota(requests_per_minute=1000, tokens_per_minute=100_000, tokens=50)
    await ports.intake.enqueue(job, **{"quota": quota, **defaults, **more})
    return job


async def together(*steps: Awaitable[Any]) -> None:
    """In one turn of the event loop, as steps that share a call begin. Raises the first error, once all have ended."""
    outcomes = await asyncio.gather(*steps, return_exceptions=True)
    for outcome in outcomes:
        if isinstance(outcome, BaseException):
            raise outcome


async def held_job(ports: Ports, *, tokens: int = 2) -> Any:
    """In a worker's hands, with so many tokens."""
    await ask(ports)
    taken = await take_one(ports)
    await start(ports, taken.lease)
    if tokens:
        await append(ports, taken.lease, 3, *[token_line()] * tokens)
    return taken


async def dead_letter(ports: Ports) -> Job:
    taken = await held_job(ports, tokens=0)
    await crash(ports, taken.lease, max_failures=1)
    job: Job = taken.job
    return job


@scenario("enqueue")
async def accepts_the_first_job(ports: Ports, redis: Any) -> Step:
    job = make_job(on_disconnect=OnDisconnect.CANCEL, messages=(picture(), picture(2000, "B")))
    return lambda: ask(ports, job, idempotency=Idempotency("h", "b"))


@scenario("enqueue")
async def accepts_one_more_job(ports: Ports, redis: Any) -> Step:
    await ask(ports)
    await ask(ports, make_job("key-b"))
    job, another = make_job(messages=(picture(),)), make_job()
    return lambda: together(ask(ports, job), ask(ports, another))


@scenario("take")
async def takes_some_of_several_lanes(ports: Ports, redis: Any) -> Step:
    for key_id in ("key-a", "key-b"):
        for priority in Priority:
            await ask(ports, make_job(key_id, priority=priority))
    return lambda: take(ports, 3, call_id="this")


@scenario("take")
async def takes_a_suspect(ports: Ports, redis: Any) -> Step:
    taken = await held_job(ports, tokens=0)
    await ask(ports)
    await crash(ports, taken.lease, max_failures=9)
    return lambda: take(ports, 3, call_id="this", idle=True)


@scenario("take")
async def takes_past_tombstones_and_a_late_one(ports: Ports, redis: Any) -> Step:
    gone = await ask(ports)
    await ask(ports, make_job(deadline_s=-1.0))
    await ask(ports)
    await ports.intake.cancel(gone.channel_id, StopReason.CLIENT)
    return lambda: take(ports, 3, call_id="this")


@scenario("take")
async def hands_a_place_on(ports: Ports, redis: Any) -> Step:
    greedy = [await held_job(ports) for _ in range(3)]
    await ask(ports, make_job("key-b"))
    offers = [one.lease for one in reversed(greedy)]
    return lambda: ports.source.take(
        TakeRequest(
            MODEL,
            0,
            worker_id="worker-1",
            call_id="this",
            lease_s=LONG_S,
            idle=False,
            offers=offers,
        )
    )


@scenario("start")
async def starts(ports: Ports, redis: Any) -> Step:
    await ask(ports)
    await ask(ports)
    one, other = await take(ports, 2)
    return lambda: together(start(ports, one.lease), start(ports, other.lease))


@scenario("append")
async def appends(ports: Ports, redis: Any) -> Step:
    taken = await held_job(ports, tokens=0)
    return lambda: append(ports, taken.lease, 3, token_line("a"), token_line("b"))


@scenario("finish")
async def finishes_with_vectors(ports: Ports, redis: Any) -> Step:
    taken = await held_job(ports)
    return lambda: finish(ports, taken.lease, 5, vectors=b"v" * 100)


@scenario("finish")
async def finishes_with_last_tokens(ports: Ports, redis: Any) -> Step:
    await ask(ports, make_job(), idempotency=Idempotency("h", "b"))
    taken = await take_one(ports)
    await start(ports, taken.lease)
    other = await held_job(ports)
    lines = [token_line("a"), token_line("b")]

    async def end_with_tokens() -> None:
        await ports.source.finish(
            taken.lease, first_seq=3, lines=lines, terminal=COMPLETED, text="ab"
        )

    return lambda: together(end_with_tokens(), finish(ports, other.lease, 5))


@scenario("renew")
async def renews(ports: Ports, redis: Any) -> Step:
    one, other = await held_job(ports), await held_job(ports)
    await append(ports, one.lease, 5, *[token_line()] * 100)
    return lambda: ports.source.renew([one.lease, other.lease], lease_s=LONG_S)


@scenario("release")
async def releases(ports: Ports, redis: Any) -> Step:
    one, other = await held_job(ports), await held_job(ports)
    await ask(ports)
    await ports.intake.cancel(other.job.channel_id, StopReason.CLIENT)
    return lambda: ports.source.release([one.lease, other.lease])


@scenario("release")
async def releases_after_a_crash(ports: Ports, redis: Any) -> Step:
    one, other = await held_job(ports, tokens=0), await held_job(ports)
    return lambda: ports.source.release([one.lease, other.lease], max_failures=2)


@scenario("cancel")
async def cancels_what_waits(ports: Ports, redis: Any) -> Step:
    job = await ask(ports)
    await ask(ports)
    return lambda: ports.intake.cancel(job.channel_id, StopReason.CLIENT)


@scenario("cancel")
async def cancels_the_last_that_waits(ports: Ports, redis: Any) -> Step:
    job = await ask(ports)
    return lambda: ports.intake.cancel(job.channel_id, StopReason.CLIENT)


@scenario("cancel")
async def cancels_what_runs(ports: Ports, redis: Any) -> Step:
    taken = await held_job(ports)
    return lambda: ports.intake.cancel(taken.job.channel_id, StopReason.CLIENT)


@scenario("forget")
async def forgets_what_runs(ports: Ports, redis: Any) -> Step:
    await ask(ports, make_job(), record=ApiRecord(b"head", b"input", stored=True))
    taken = await take_one(ports)
    return lambda: ports.intake.forget(taken.job.channel_id)


@scenario("watch")
async def watches(ports: Ports, redis: Any) -> Step:
    job = await ask(ports)
    return lambda: ports.intake.watch(job.channel_id, lease_s=60.0)


@scenario("reap")
async def reaps_what_nobody_reads_and_what_is_late(ports: Ports, redis: Any) -> Step:
    unread, late, running = await ask(ports), await ask(ports), await held_job(ports)
    del late
    await ask(ports, make_job(deadline_s=-1.0))
    for channel_id in (unread.channel_id, running.job.channel_id):
        await ports.intake.watch(channel_id, lease_s=-1.0)
    return lambda: reap(ports)


@scenario("reap")
async def reaps_a_dead_worker(ports: Ports, redis: Any) -> Step:
    one, other = await held_job(ports, tokens=0), await held_job(ports)
    await let_expire(ports, one.lease, other.lease)
    return lambda: reap(ports, max_failures=3)


@scenario("reap")
async def sets_aside(ports: Ports, redis: Any) -> Step:
    await dead_letter(ports)
    taken = await held_job(ports, tokens=0)
    await let_expire(ports, taken.lease)
    return lambda: reap(ports, max_failures=1)


@scenario("reap")
async def forgets_what_has_faded(ports: Ports, redis: Any) -> Step:
    await finish(ports, (await held_job(ports)).lease, 5)
    spans = await redis.zrange(keys.fading(MODEL), 0, -1)
    await redis.zadd(keys.fading(MODEL), {spans[0]: 1.0})
    return lambda: reap(ports)


@scenario("reap")
async def mends(ports: Ports, redis: Any) -> Step:
    await ask(ports)
    await held_job(ports)
    await redis.hset(keys.counts(MODEL), mapping={"drifted": 1, "waiting": 7})
    return lambda: reap(ports)


@scenario("reap")
async def finds_that_an_image_is_gone(ports: Ports, redis: Any) -> Step:
    await held_job(ports)
    ended = make_job("key-b", messages=(picture(letter="B"),))
    await ask(ports, ended)
    await redis.delete(*await redis.keys("*:image:key-b:*"))
    await ports.intake.cancel(ended.channel_id, StopReason.CLIENT)
    return lambda: reap(ports)


@scenario("replay")
async def replays(ports: Ports, redis: Any) -> Step:
    letter, new = await dead_letter(ports), new_channel_id(MODEL)
    return lambda: ports.inspector.replay(letter.channel_id, new_channel_id=new, max_waiting=9)


@scenario("drop")
async def drops(ports: Ports, redis: Any) -> Step:
    letter = await dead_letter(ports)
    return lambda: ports.inspector.drop(letter.channel_id)


@scenario("collect")
async def collects(ports: Ports, redis: Any) -> Step:
    await finish(ports, (await held_job(ports)).lease, 5)
    return lambda: ports.traces.collect(MODEL, writer="w", limit=9, claim_after_s=60.0)


@scenario("state")
async def looks(ports: Ports, redis: Any) -> Step:
    job = await ask(ports)
    return lambda: ports.intake.state(job.channel_id)


# Where nobody sends the step again, what it has left is more than a hint.
UNREPEATED = ("enqueue", "take", "finish", "release", "reap")
CASES = [
    (name, then)
    for name, (script, _) in SCENARIOS.items()
    for then in ("sent again", "reaped")
    if then == "sent again" or script in UNREPEATED
]


@pytest.mark.parametrize(("name", "then"), CASES, ids=map("-".join, CASES))
async def test_step_that_fails_at_any_command_leaves_a_state_that_is_made_whole(
    name: str, then: str, redis_store: RedisStore
) -> None:
    script, build = SCENARIOS[name]
    redis: Any = redis_store.redis
    ports, faulty = faulty_ports(redis_store)
    at, came = 0, True
    while came:
        at += 1
        await redis.flushdb()
        step = await build(ports, redis)
        faulty.name, faulty.at = script, at
        with suppress(ResponseError):
            await step()
        came = await redis.getdel(HIT) is not None
        if then == "sent again":
            await step()
        await reap(ports)
        await reap(ports)
        try:
            await check_whole(redis)
            await end_everything(ports, redis)
            await reap(ports)
            await check_whole(redis)
            await check_ends(ports, redis)
        except AssertionError as error:
            raise AssertionError(f"{script} failed at command {at}") from error
    assert at > 2


async def test_start_that_failed_at_any_command_is_told_as_failed_and_made_up_for(
    redis_store: RedisStore,
) -> None:
    redis: Any = redis_store.redis
    ports, faulty = faulty_ports(redis_store)
    at, came = 0, True
    while came:
        at += 1
        await redis.flushdb()
        await ask(ports)
        taken = await take_one(ports)
        faulty.name, faulty.at = "start", at
        try:
            verdict = await start(ports, taken.lease)
        except ResponseError:
            verdict = await start(ports, taken.lease)
        came = await redis.getdel(HIT) is not None
        assert verdict.tail == 2, at
        assert await names(ports, taken.job.channel_id) == ["queued", "started"], at
    assert at > 2


@pytest.mark.parametrize(
    "lost",
    [
        [keys.deadlines(MODEL), keys.watched(MODEL)],
        [keys.inflight(MODEL)],
        [keys.suspects(MODEL)],
        [keys.turns(MODEL, Priority.NORMAL)],
        [keys.lane(MODEL, Priority.NORMAL, "key-a")],
        [keys.counts(MODEL)],
        [keys.open_jobs(MODEL)],
        [keys.running_jobs(MODEL)],
        [keys.held(MODEL)],
        [keys.images(MODEL)],
    ],
    ids=lambda lost: lost[0].rpartition("}:")[2],
)
async def test_index_that_is_lost_is_made_from_the_others(
    lost: list[str], redis_store: RedisStore
) -> None:
    ports, _ = faulty_ports(redis_store)
    redis: Any = redis_store.redis
    suspected, _ = await held_job(ports, tokens=0), await held_job(ports)
    await crash(ports, suspected.lease, max_failures=9)
    for _ in range(2):
        await ask(ports)
    await check_whole(redis)
    assert await redis.delete(*lost) == len(lost)
    await redis.hset(keys.counts(MODEL), "drifted", 1)
    await reap(ports)
    await check_whole(redis)
    await end_everything(ports, redis)
    await check_ends(ports, redis)


def test_every_script_that_writes_is_made_to_fail() -> None:
    # These two write what may be written again at any time; the others only read.
    harmless = {"written", "shelve", "unwatch"} | {"queue", "channels", "dead"}
    assert {script for script, _ in SCENARIOS.values()} == set(scripts.NAMES) - harmless


async def test_lane_of_nothing_but_ended_jobs_is_forgotten(redis_store: RedisStore) -> None:
    ports, _ = faulty_ports(redis_store)
    redis: Any = redis_store.redis
    lane = keys.lane(MODEL, "normal", "key-a")
    await redis.rpush(lane, "ended", "gone")
    await redis.rpush(keys.turns(MODEL, "normal"), "key-a")
    await redis.hset(
        keys.counts(MODEL), mapping={"drifted": 1, "lane:normal:key-a:popped": 5, "waiting": 2}
    )
    await reap(ports)
    assert await redis.exists(lane, keys.turns(MODEL, "normal")) == 0
    assert not [field for field in await redis.hkeys(keys.counts(MODEL)) if b"lane:" in field]


async def test_counter_that_cannot_count_on_keeps_no_job_from_its_end(
    redis_store: RedisStore,
) -> None:
    ports, _ = faulty_ports(redis_store)
    redis: Any = redis_store.redis
    await finish(ports, (await held_job(ports)).lease, 5)
    (account,) = await redis.keys("*:usage:*")
    await redis.hset(account, "key-a output_tokens", 2**63 - 1)
    await finish(ports, (await held_job(ports)).lease, 5)
    await reap(ports)
    await check_whole(redis)
    await check_ends(ports, redis)


@pytest.mark.parametrize("number", [9 * 10**18, -1, 2**41, 1.5, 1e30, float("nan")])
async def test_usage_that_cannot_be_is_counted_by_the_log(ports: Ports, number: Any) -> None:
    completed = replace(COMPLETED, usage=Usage(number, number, number))
    for _ in range(2):
        await ask(ports)
        taken = await take_one(ports)
        await start(ports, taken.lease)
        await append(ports, taken.lease, 3, token_line("a", 1, 2))
        assert (await finish(ports, taken.lease, 4, completed)).held
    today = datetime.now(UTC).date()
    (day,) = await ports.accounts.usage(MODEL, since=today - timedelta(1), until=today, key_id=None)
    assert (day.completed, day.input_tokens, day.output_tokens, day.cached_tokens) == (2, 6, 4, 0)
    await ask(ports, max_inflight_per_key=1)


async def test_job_that_cannot_be_ended_holds_up_no_other(redis_store: RedisStore) -> None:
    ports, _ = faulty_ports(redis_store)
    redis: Any = redis_store.redis
    poisoned, other = [await ask(ports, make_job(deadline_s=-1.0)) for _ in range(2)]
    await redis.hset(keys.job(poisoned.channel_id), "log_ttl_s", "soon")
    assert (await reap(ports)).ended == 1
    assert await names(ports, other.channel_id) == ["queued", "expired"]
    # It has not ended by halves.
    assert await names(ports, poisoned.channel_id) == ["queued"]
    await redis.hset(keys.job(poisoned.channel_id), "log_ttl_s", "60")
    assert (await reap(ports)).ended == 1
    await check_whole(redis)
    await check_ends(ports, redis)
