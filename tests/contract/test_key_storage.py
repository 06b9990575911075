"""What one key may hold of a model's store, so that there is room for the next."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from relais_common.jobs.errors import KeyStorageFull, QueueFull, RelaisError, StorageFull
from relais_common.jobs.events import Completed, Timings, Usage, Vectors
from relais_common.jobs.job import Embedding, Job, Operation, Sampling, StopReason
from relais_common.queue import keys
from relais_common.queue.redis_store import RedisStore
from relais_testing.builders import MODEL, make_job
from relais_testing.ports import Ports, redis_ports
from relais_testing.steps import crash, enqueue, finish, reap, start, take, take_one

BOUND = 4_000_000
ROOM = 3_000_000  # three quarters
VECTORS = Completed(
    "stop", Usage(7, 0), Timings(queue_s=0.0, prefill_s=0.0, decode_s=0.0), vectors=Vectors(2, 35)
)


def large(key_id: str, length: int = 100_000, **fields: Any) -> Job:
    return make_job(key_id, prompt="x" * length, **fields)


def embedding(key_id: str, inputs: int, **fields: Any) -> Job:
    asked = Embedding(inputs=("a",) * inputs, dimensions=256)
    return make_job(key_id, operation=Operation.EMBEDDINGS, embedding=asked, **fields)


async def ask(ports: Ports, job: Job, bound: int = BOUND) -> None:
    await ports.intake.enqueue(job, max_waiting=1000, max_stored_bytes=bound)


async def fill(ports: Ports, key_id: str, length: int = 100_000) -> tuple[int, RelaisError]:
    """Ask until it is refused; how often it was not, and why it was."""
    for number in range(1000):
        try:
            await ask(ports, large(key_id, length))
        except (KeyStorageFull, StorageFull) as error:
            return number, error
    raise AssertionError("never refused")


async def held(ports: Ports) -> int:
    return (await ports.inspector.queue(MODEL, top_keys=0)).stored_bytes


async def test_key_that_fills_the_store_is_refused_and_others_are_let_in(ports: Ports) -> None:
    number, error = await fill(ports, "greedy")
    assert isinstance(error, KeyStorageFull)
    assert (error.status, error.code) == (429, "key_storage_full")
    assert 0.6 * ROOM < number * 100_000 < 0.7 * ROOM  # alone it has most of it
    for victim in range(20):
        await ask(ports, make_job(f"victim-{victim}"))
    with pytest.raises(KeyStorageFull):
        await ask(ports, large("greedy"))


async def test_each_newcomer_finds_room(ports: Ports) -> None:
    counts = [(await fill(ports, f"key-{number}", 10_000))[0] for number in range(4)]
    assert counts[0] > counts[1] > counts[2] > counts[3] > 0
    await ask(ports, make_job("last"))


async def test_keys_that_come_together_hold_the_same(ports: Ports) -> None:
    names = ("a", "b", "c")
    accepted = dict.fromkeys(names, 0)
    for number in range(300):
        try:
            await ask(ports, large(names[number % 3], 20_000))
        except (KeyStorageFull, StorageFull):
            continue
        accepted[names[number % 3]] += 1
    assert max(accepted.values()) - min(accepted.values()) <= 1
    assert 0.7 * ROOM < sum(accepted.values()) * 20_000 < 0.9 * ROOM


async def test_key_with_little_is_told_that_the_store_is_full(ports: Ports) -> None:
    await fill(ports, "greedy")
    with pytest.raises(StorageFull):
        await ask(ports, large("victim", 900_000))


async def test_results_are_counted_before_they_come(ports: Ports) -> None:
    accepted = 0
    with pytest.raises(KeyStorageFull):
        for _ in range(100):
            await ask(ports, embedding("greedy", 300))  # 300 KB each, once they are there
            accepted += 1
    assert accepted == 6
    before = await held(ports)
    assert before > accepted * 4 * 256 * 300
    # What came of them takes the place of what was expected.
    for taken in await take(ports, 6):
        await finish(ports, taken.lease, 2, VECTORS, "", b"v" * 20_000)
    assert 6 * 20_000 < await held(ports) < 6 * 30_000
    await ask(ports, embedding("greedy", 300))


async def test_expected_result_never_fills_a_small_store(ports: Ports) -> None:
    await ask(ports, embedding("key-a", 2048), bound=400_000)


async def test_ended_jobs_count_for_their_key(ports: Ports) -> None:
    await ask(ports, make_job("greedy"))
    taken = await take_one(ports)
    await finish(ports, taken.lease, 2, text="x" * 2_500_000)
    with pytest.raises(KeyStorageFull):
        await ask(ports, make_job("greedy"))
    await ask(ports, make_job("victim"))


async def test_key_that_has_nothing_unfinished_is_queued_though_as_many_wait_as_may(
    ports: Ports,
) -> None:
    await enqueue(ports, *[make_job("greedy") for _ in range(5)], max_waiting=5)
    with pytest.raises(QueueFull):
        await enqueue(ports, make_job("greedy"), max_waiting=5)
    await enqueue(ports, make_job("victim"), max_waiting=5)
    with pytest.raises(QueueFull):
        await enqueue(ports, make_job("victim"), max_waiting=5)


async def refused_for_s(ports: Ports, job: Job) -> float:
    with pytest.raises((KeyStorageFull, StorageFull)) as refused:
        await ask(ports, job)
    assert refused.value.retry_after_s is not None
    return refused.value.retry_after_s


async def test_retry_after_is_when_enough_fades_not_when_something_does(
    redis_store: RedisStore,
) -> None:
    ports = redis_ports(redis_store)
    for ttl_s, length in ((30.0, 1000), (300.0, 300_000), (3000.0, 1_600_000)):
        await ask(ports, make_job("greedy", log_ttl_s=ttl_s, result_ttl_s=ttl_s))
        taken = await take_one(ports)
        await finish(ports, taken.lease, 2, text="x" * length)
    assert 280 < await refused_for_s(ports, large("greedy", 300_000)) <= 310
    assert 2980 < await refused_for_s(ports, large("greedy", 700_000)) <= 3010
    # The other's request fits once the first key's fades, too.
    assert 280 < await refused_for_s(ports, large("victim", 900_000)) <= 310


async def test_retry_after_is_when_jobs_end_where_that_is_sooner(redis_store: RedisStore) -> None:
    ports = redis_ports(redis_store)
    await redis_store.redis.hset(keys.counts(MODEL), "service_s", 4)
    await fill(ports, "greedy")
    assert await refused_for_s(ports, large("greedy")) < 20
    # Nothing that is left of ended ones is given back sooner by those that run.
    for taken in await take(ports, 100):
        await finish(ports, taken.lease, 2, text="x" * 100_000)
    await redis_store.redis.hset(keys.counts(MODEL), "service_s", 4)
    assert await refused_for_s(ports, large("greedy")) > 50


async def test_what_a_key_holds_is_forgotten_when_it_has_faded(redis_store: RedisStore) -> None:
    ports = redis_ports(redis_store)
    redis: Any = redis_store.redis
    jobs = [large(key, 1000, log_ttl_s=1.0, result_ttl_s=1.0) for key in ("a", "b", "b")]
    await enqueue(ports, *jobs)
    for taken in await take(ports, 3):
        await finish(ports, taken.lease, 2)
    by_key = await redis.hgetall(keys.held(MODEL))
    assert by_key.keys() == {b"a", b"b"}
    assert sum(map(int, by_key.values())) == await held(ports)
    # However long nobody reaps, it is known what there was.
    assert await redis.ttl(keys.fading(MODEL)) == -1
    spans = await redis.zrange(keys.fading(MODEL), 0, -1)
    await redis.zadd(keys.fading(MODEL), dict.fromkeys(spans, 1.0))
    await asyncio.gather(reap(ports), reap(ports))
    assert await redis.hgetall(keys.held(MODEL)) == {}
    assert await held(ports) == 0


async def test_bytes_of_keys_are_counted_again_where_jobs_were_lost(
    redis_store: RedisStore,
) -> None:
    ports, redis = redis_ports(redis_store), redis_store.redis
    doomed, crashed, running = (large(key) for key in ("doomed", "crashed", "running"))
    await enqueue(ports, crashed, running)
    first, _ = await take(ports, 2)
    await start(ports, first.lease)
    await crash(ports, first.lease, max_failures=9)
    await enqueue(ports, doomed, large("waiting"), over := large("over"))
    await ports.intake.cancel(over.channel_id, StopReason.CLIENT)
    before = await redis.hgetall(keys.held(MODEL))
    await redis.delete(keys.job(doomed.channel_id), keys.log(doomed.channel_id))
    await redis.zadd(keys.deadlines(MODEL), {doomed.channel_id: 1.0})
    await reap(ports)
    after = await redis.hgetall(keys.held(MODEL))
    assert after == {key: own for key, own in before.items() if key != b"doomed"}
    assert sum(map(int, after.values())) == await held(ports)


def test_expected_bytes_follow_from_what_is_asked() -> None:
    job = embedding("a", 10)
    assert job.embedding is not None
    assert job.expected_result_bytes == 10 * 256 * 4
    scores = replace(job, embedding=replace(job.embedding, queries=("q",)))
    assert scores.expected_result_bytes == 10 * 4
    unknown = replace(job, embedding=replace(job.embedding, dimensions=None))
    assert unknown.expected_result_bytes == 10 * 1024 * 4
    classes = replace(unknown, operation=Operation.CLASSIFY)
    assert classes.expected_result_bytes == 10 * 16 * 4
    assert make_job().expected_result_bytes == 0
    # The twenty likeliest tokens of a place take a kilobyte, where a token alone takes 40 bytes.
    told = make_job(sampling=Sampling(max_tokens=100, logprobs=20))
    assert told.expected_result_bytes == 100 * 21 * 48
