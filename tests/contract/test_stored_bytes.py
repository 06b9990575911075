"""How much may be held of a model's jobs: the bound at the door, the bound on takes, and that the count is right."""

from __future__ import annotations

from typing import Any

import pytest

from relais_common.jobs.chat import Message
from relais_common.jobs.errors import KeyStorageFull, StorageFull
from relais_common.jobs.inspection import DEAD_LETTERS_KEPT
from relais_common.jobs.job import Idempotency, Job, Sampling, Status, StopReason
from relais_common.queue import keys
from relais_common.queue.redis_store import RedisStore
from relais_testing.builders import MODEL, make_job, token_line
from relais_testing.ports import Ports, redis_ports
from relais_testing.steps import (
    append,
    crash,
    enqueue,
    finish,
    ids,
    names,
    reap,
    start,
    take,
    take_one,
)

BOUND = 400_000
REFUSED = (StorageFull, KeyStorageFull)


def large(length: int = 100_000, key_id: str = "key-a", **fields: Any) -> Job:
    return make_job(key_id, messages=(Message("user", "x" * length),), **fields)


async def bounded(ports: Ports, job: Job, bound: int = BOUND) -> None:
    await ports.intake.enqueue(job, max_waiting=100, max_stored_bytes=bound)


async def held(ports: Ports) -> int:
    return (await ports.inspector.queue(MODEL, top_keys=0)).stored_bytes


async def test_job_that_would_fill_more_than_three_quarters_is_refused(ports: Ports) -> None:
    await bounded(ports, large())
    before = await held(ports)
    with pytest.raises(StorageFull) as refused:
        await bounded(ports, large(250_000))
    assert (refused.value.status, refused.value.code) == (503, "storage_full")
    assert refused.value.retry_after_s is not None
    assert refused.value.retry_after_s >= 1
    assert await held(ports) == before
    await bounded(ports, large(50_000))


async def test_request_is_counted_until_its_job_ends(ports: Ports) -> None:
    waiting, running = large(key_id="key-b"), large()
    await bounded(ports, running)
    taken = await take_one(ports)
    await bounded(ports, waiting)
    for newcomer, end in zip(
        "cd",
        (
            ports.intake.cancel(waiting.channel_id, StopReason.CLIENT),
            finish(ports, taken.lease, 2),
        ),
        strict=True,
    ):
        with pytest.raises(REFUSED):
            await bounded(ports, large())
        await end
        await bounded(ports, large(key_id=newcomer))
    assert 200_000 < await held(ports) < 300_000


async def test_answer_is_counted_while_it_grows_and_after_its_end(ports: Ports) -> None:
    await enqueue(ports, make_job())
    taken = await take_one(ports)
    before = await held(ports)
    await append(ports, taken.lease, 2, *[token_line("é" * 50) for _ in range(1000)])
    await ports.source.renew([taken.lease], lease_s=60.0)
    growing = await held(ports)
    assert growing - before > 100_000
    await finish(ports, taken.lease, 1002, text="é" * 50_000)
    assert await held(ports) - before > 200_000
    with pytest.raises(REFUSED):
        await bounded(ports, make_job(), 250_000)


async def test_log_probabilities_that_came_are_not_expected_any_more(ports: Ports) -> None:
    """Or answers that grow as they were expected to would take the room of other keys."""
    asked = make_job("key-a", sampling=Sampling(logprobs=19, max_tokens=200))
    await bounded(ports, asked, 4_000_000)
    taken = await take_one(ports)
    await ports.source.renew([taken.lease], lease_s=60.0)
    before, expected = await held(ports), asked.expected_result_bytes
    assert before > expected
    await append(ports, taken.lease, 2, *[token_line("x" * (expected // 250))] * 200)
    await ports.source.renew([taken.lease], lease_s=60.0)
    assert await held(ports) < before + expected / 4


async def test_accepted_job_is_found_again_by_its_key_when_there_is_no_room(ports: Ports) -> None:
    first, again = large(), large()
    key = Idempotency("h", "b")
    await ports.intake.enqueue(first, max_waiting=9, idempotency=key)
    found = await ports.intake.enqueue(again, max_waiting=9, max_stored_bytes=1, idempotency=key)
    assert (found.channel_id, found.duplicate) == (first.channel_id, True)


async def test_past_the_bound_streams_go_on_and_one_job_at_a_time_is_taken(ports: Ports) -> None:
    jobs = [make_job() for _ in range(4)]
    for job in jobs:
        await bounded(ports, job)
    (first,) = await take(ports, 1)
    tokens = [token_line("x" * 1000) for _ in range(BOUND // 1000 + 10)]
    await append(ports, first.lease, 2, *tokens)
    await ports.source.renew([first.lease], lease_s=60.0)
    assert await take(ports, 3) == []
    verdict = await append(ports, first.lease, 2 + len(tokens))
    assert (verdict.held, verdict.tail) == (True, 2 + len(tokens))
    await finish(ports, first.lease, 3 + len(tokens))
    (second,) = await take(ports, 3)
    assert second.job == jobs[1]
    assert await take(ports, 3, worker_id="worker-2") == []
    await finish(ports, second.lease, 2)
    assert ids(await take(ports, 3)) == ids([jobs[2]])


async def expire_all(redis: Any) -> None:
    """What time does to ended jobs; the next to look at what fades forgets it."""
    spans = await redis.zrange(keys.fading(MODEL), 0, -1)
    await redis.zadd(keys.fading(MODEL), dict.fromkeys(spans, 1.0))


async def test_what_has_expired_is_counted_no_more(redis_store: RedisStore) -> None:
    ports = redis_ports(redis_store)
    await enqueue(ports, *[large() for _ in range(5)])
    for taken in await take(ports, 4):
        await finish(ports, taken.lease, 2)
    redis: Any = redis_store.redis
    await expire_all(redis)
    await reap(ports)
    left = (await take_one(ports)).job.channel_id
    assert await held(ports) == int(await redis.hget(keys.job(left), "bytes"))
    assert await redis.keys(keys.fading(MODEL).replace("{", "*").replace("}", "*") + "*") == []
    assert await redis.hgetall(keys.held(MODEL)) == {b"key-a": str(await held(ports)).encode()}


async def test_full_store_forgets_what_has_expired_before_it_refuses(
    redis_store: RedisStore,
) -> None:
    ports = redis_ports(redis_store)
    await enqueue(ports, make_job())
    taken = await take_one(ports)
    await finish(ports, taken.lease, 2, text="x" * BOUND)
    with pytest.raises(REFUSED):
        await bounded(ports, make_job())
    await expire_all(redis_store.redis)
    await bounded(ports, make_job())


async def test_bytes_of_jobs_whose_state_expired_before_anybody_ended_them_are_mended(
    redis_store: RedisStore,
) -> None:
    ports = redis_ports(redis_store)
    doomed, kept, crashed = large(), large(50_000), large(20_000)
    await enqueue(ports, crashed, doomed, kept)
    (taken,) = await take(ports, 1)
    await start(ports, taken.lease)
    await crash(ports, taken.lease, max_failures=9)
    await redis_store.redis.delete(keys.job(doomed.channel_id), keys.log(doomed.channel_id))
    assert await held(ports) > 150_000
    await redis_store.redis.zadd(keys.deadlines(MODEL), {doomed.channel_id: 1.0})
    await reap(ports)
    assert 70_000 < await held(ports) < 100_000


async def test_dropped_and_replayed_letters_are_counted_once(redis_store: RedisStore) -> None:
    ports = redis_ports(redis_store)
    letters = [large() for _ in range(3)]
    for letter in letters:
        await enqueue(ports, letter)
        (taken,) = await take(ports, 1, idle=True)
        await start(ports, taken.lease)
        await crash(ports, taken.lease, max_failures=1)
    assert 300_000 < await held(ports) < 450_000
    await ports.inspector.drop(letters[0].channel_id)
    assert 200_000 < await held(ports) < 300_000
    new = make_job().channel_id
    await ports.inspector.replay(letters[1].channel_id, new_channel_id=new, max_waiting=9)
    assert 200_000 < await held(ports) < 300_000
    await ports.intake.cancel(new, StopReason.CLIENT)
    assert 100_000 < await held(ports) < 200_000
    await ports.inspector.drop(letters[2].channel_id)
    assert await held(ports) < 100_000
    await expire_all(redis_store.redis)
    await reap(ports)
    assert await held(ports) == 0


async def test_dead_letters_past_their_share_go_the_oldest_first(redis_store: RedisStore) -> None:
    ports = redis_ports(redis_store)
    letters = [large(24 << 20) for _ in range(4)]
    for letter in letters:
        await enqueue(ports, letter)
        (taken,) = await take(ports, 1, idle=True)
        await start(ports, taken.lease)
        await crash(ports, taken.lease, max_failures=1)
    listed = await ports.inspector.dead_letters(MODEL, limit=DEAD_LETTERS_KEPT)
    assert [one.channel_id for one in listed] == ids([letters[3], letters[2]])
    state = await ports.intake.state(letters[0].channel_id)
    assert state is not None
    assert state.status is Status.FAILED
    assert await held(ports) < 80 << 20


async def test_count_is_no_less_than_what_the_server_says_it_uses(
    redis_store: RedisStore,
) -> None:
    ports = redis_ports(redis_store)

    async def used() -> int:
        return int((await redis_store.redis.info("memory"))["used_memory_dataset"])

    await enqueue(ports, make_job())
    before = await used(), await held(ports)
    for number in range(300):
        key = Idempotency(f"{number:064}", "b" * 64)
        job = large(100 * number, key_id=f"key-{number % 7}")
        await ports.intake.enqueue(job, max_waiting=10_000, idempotency=key)
    for taken in await take(ports, 150):
        await append(ports, taken.lease, 2, *[token_line(" bonjour", 12345)] * 200)
        if len(taken.job.channel_id) % 2:
            await finish(ports, taken.lease, 202, text=" bonjour" * 200)
        else:
            await ports.source.renew([taken.lease], lease_s=60.0)
    grown, counted = await used() - before[0], await held(ports) - before[1]
    assert 0.9 * grown <= counted <= 1.5 * grown


async def test_refused_job_leaves_no_event(redis_store: RedisStore) -> None:
    ports = redis_ports(redis_store)
    job = large()
    with pytest.raises(REFUSED):
        await bounded(ports, job, 1000)
    assert await names(ports, job.channel_id) == []
    await enqueue(ports, job)
    assert await names(ports, job.channel_id) == ["queued"]
