"""Images of waiting and running jobs: stored once for each key, and gone with the last job that has them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from relais_common.jobs.channels import new_channel_id
from relais_common.jobs.errors import ImageLost, KeyStorageFull, StorageFull
from relais_common.jobs.events import Failed
from relais_common.jobs.job import Job, OnDisconnect, StopReason, TakenJob
from relais_common.queue import keys
from relais_common.queue.images import take_out
from relais_common.queue.redis_store import RedisStore
from relais_common.queue.source.redis_source import MOST_BYTES
from relais_testing.builders import MODEL, make_job, picture
from relais_testing.ports import Ports, redis_ports
from relais_testing.steps import (
    PAST_S,
    append,
    crash,
    enqueue,
    events,
    finish,
    ids,
    let_expire,
    names,
    reap,
    running,
    start,
    take,
    take_one,
)
from relais_testing.traced import WITH_CONTENT, the_trace

IMAGE = 100_000
REFUSED = (StorageFull, KeyStorageFull)
End = Callable[[Ports, TakenJob | Job], Awaitable[Any]]


def shown(key_id: str = "key-a", letter: str = "A", **fields: Any) -> Job:
    return make_job(key_id, messages=(picture(IMAGE, letter),), **fields)


async def held(ports: Ports) -> int:
    return (await ports.inspector.queue(MODEL, top_keys=0)).stored_bytes


async def test_worker_gets_the_request_as_it_was_sent(ports: Ports) -> None:
    jobs = [
        make_job(messages=(picture(9000), picture(2000, "B"), picture(9000), picture(100, "é"))),
        make_job(messages=(picture(2000, '"\\'), picture(2000, "é"))),
        make_job(),
    ]
    await enqueue(ports, *jobs)
    assert [one.job for one in await take(ports, 9, call_id="this")] == jobs
    assert [one.job for one in await take(ports, 9, call_id="this")] == jobs


async def test_jobs_of_a_key_hold_an_image_once(ports: Ports) -> None:
    await enqueue(ports, *[make_job() for _ in range(10)])
    before = await held(ports)
    await enqueue(ports, *[shown() for _ in range(10)])
    assert IMAGE < await held(ports) - before < 1.5 * IMAGE
    await enqueue(ports, shown(letter="B"))
    assert 2 * IMAGE < await held(ports) - before < 2.5 * IMAGE


async def test_key_learns_nothing_of_the_images_of_others(ports: Ports) -> None:
    """It pays for what it sends as if nobody had it: what is left to it would tell."""
    await enqueue(ports, shown("key-a"))
    before = await held(ports)
    await enqueue(ports, shown("key-b"))
    same = await held(ports) - before
    await enqueue(ports, shown("key-c", "C"))
    assert await held(ports) - before == pytest.approx(2 * same, abs=1000)


async def test_image_that_the_key_has_there_takes_no_more_room(ports: Ports) -> None:
    async def ask(job: Job) -> None:
        await ports.intake.enqueue(job, max_waiting=100, max_stored_bytes=250_000)

    await ask(shown())
    for _ in range(5):
        await ask(shown())
    with pytest.raises(REFUSED):
        await ask(shown(letter="B"))


async def completed(ports: Ports, one: TakenJob | Job) -> None:
    assert isinstance(one, TakenJob)
    await finish(ports, one.lease, 2)


async def cancelled_while_running(ports: Ports, one: TakenJob | Job) -> None:
    assert isinstance(one, TakenJob)
    await ports.intake.cancel(one.lease.channel_id, StopReason.CLIENT)
    await ports.source.release([one.lease])


async def set_aside(ports: Ports, one: TakenJob | Job) -> None:
    assert isinstance(one, TakenJob)
    await start(ports, one.lease)
    await crash(ports, one.lease, max_failures=1)
    assert await ports.inspector.drop(one.lease.channel_id)


async def late_in_the_hands_of_a_dead_worker(ports: Ports, one: TakenJob | Job) -> None:
    assert isinstance(one, TakenJob)
    await ports.let_deadline_pass(one.lease.channel_id)
    await reap(ports)
    await let_expire(ports, one.lease)
    await reap(ports)


async def cancelled(ports: Ports, one: TakenJob | Job) -> None:
    assert isinstance(one, Job)
    await ports.intake.cancel(one.channel_id, StopReason.CLIENT)


async def late(ports: Ports, one: TakenJob | Job) -> None:
    assert isinstance(one, Job)
    await ports.let_deadline_pass(one.channel_id)
    await reap(ports)


async def unread(ports: Ports, one: TakenJob | Job) -> None:
    assert isinstance(one, Job)
    await ports.intake.watch(one.channel_id, lease_s=PAST_S)
    await reap(ports)


async def forgotten_and_cancelled(ports: Ports, one: TakenJob | Job) -> None:
    assert isinstance(one, Job)
    await ports.intake.forget(one.channel_id)
    await ports.intake.cancel(one.channel_id, StopReason.CLIENT)


RUNNING: list[End] = [
    completed,
    cancelled_while_running,
    set_aside,
    late_in_the_hands_of_a_dead_worker,
]
WAITING: list[End] = [cancelled, late, unread, forgotten_and_cancelled]


@pytest.mark.parametrize("end", [*RUNNING, *WAITING], ids=lambda end: end.__name__)
async def test_image_is_gone_with_the_last_job_that_has_it(ports: Ports, end: End) -> None:
    one, other = [shown(on_disconnect=OnDisconnect.CANCEL) for _ in range(2)]
    await enqueue(ports, one, other)
    waiting = [one, other]
    ending = await take(ports, 2) if end in RUNNING else waiting
    await end(ports, ending[0])
    assert IMAGE < await held(ports) < 1.5 * IMAGE
    await end(ports, ending[1])
    assert await held(ports) < IMAGE / 2
    for job in waiting:
        state = await ports.intake.state(job.channel_id)
        assert state is None or state.status.is_terminal


async def test_images_of_jobs_that_are_late_when_they_are_taken_are_gone(ports: Ports) -> None:
    await enqueue(ports, shown(deadline_s=PAST_S), shown(deadline_s=PAST_S), job := make_job())
    assert ids(await take(ports, 3)) == ids([job])
    assert await held(ports) < IMAGE / 2


async def test_job_that_waits_again_has_its_image(ports: Ports) -> None:
    first = await running(ports, shown())
    await start(ports, first.lease)
    await append(ports, first.lease, 3)
    await crash(ports, first.lease)
    again = await take_one(ports)
    assert again.job == first.job
    await ports.source.release([again.lease])
    assert (await take_one(ports)).job == first.job
    assert IMAGE < await held(ports) < 1.5 * IMAGE


async def test_take_stops_where_images_are_large(ports: Ports) -> None:
    large = MOST_BYTES // 2
    jobs = [make_job(messages=(picture(large),)) for _ in range(5)]
    await enqueue(ports, *jobs)
    assert ids(await take(ports, 5)) == ids(jobs[:2])


async def test_dead_letter_has_its_images_and_is_replayed_with_them(ports: Ports) -> None:
    taken = await running(ports, shown())
    await start(ports, taken.lease)
    await crash(ports, taken.lease, max_failures=1)
    (letter,) = await ports.inspector.dead_letters(MODEL, limit=9)
    assert letter.request_bytes > IMAGE
    new = new_channel_id(MODEL)
    await ports.inspector.replay(letter.channel_id, new_channel_id=new, max_waiting=9)
    again = await take_one(ports)
    assert again.job.messages == taken.job.messages
    await finish(ports, again.lease, 2)
    assert await held(ports) < IMAGE / 2


async def test_trace_tells_type_and_length(ports: Ports) -> None:
    job = make_job(messages=(picture(4000), picture(100)))
    await ports.intake.enqueue(job, max_waiting=9, tracing=WITH_CONTENT)
    await finish(ports, (await take_one(ports)).lease, 2)
    content = (await the_trace(ports)).content
    assert content is not None
    urls = [turn["content"][1]["image_url"]["url"] for turn in content["messages"]]
    kind = "data:image/png;base64"
    assert urls == [f"{kind},(4000 characters)", f"{kind},(100 characters)"]


async def images_in(redis: Any) -> list[bytes]:
    found: list[bytes] = await redis.keys("*:image*")
    return found


async def test_nothing_is_left_of_images_in_redis(redis_store: RedisStore) -> None:
    ports, redis = redis_ports(redis_store), redis_store.redis
    await enqueue(ports, shown(), shown(), shown(letter="B"), shown("key-b"))
    assert len(await images_in(redis)) == 3 + 1
    for taken in await take(ports, 9):
        assert await images_in(redis)
        await finish(ports, taken.lease, 2)
    assert await images_in(redis) == []


async def test_image_expires_no_sooner_than_any_job_that_has_it(redis_store: RedisStore) -> None:
    ports, redis = redis_ports(redis_store), redis_store.redis
    jobs = [shown(deadline_s=deadline_s) for deadline_s in (600.0, 6000.0, 60.0)]
    await enqueue(ports, *jobs)
    (name,) = await redis.keys("*:image:*")
    ttls = [await redis.ttl(keys.job(job.channel_id)) for job in jobs]
    assert await redis.ttl(name) == max(ttls)


async def test_job_whose_image_is_gone_fails_by_name_and_the_others_are_taken(
    redis_store: RedisStore,
) -> None:
    ports, redis = redis_ports(redis_store), redis_store.redis
    lost, other, usual = shown(), shown(letter="B"), make_job()
    await enqueue(ports, lost, other, usual)
    (first, _) = await redis.keys("*:image:*")
    await redis.delete(first)
    taken = await take(ports, 9)
    failed, whole = (lost, other) if other in [one.job for one in taken] else (other, lost)
    assert ids(taken) == ids([whole, usual])
    (*_, end) = await events(ports, failed.channel_id)
    assert isinstance(end, Failed)
    assert (end.error.code, end.error.status) == ("image_lost", 500)
    for one in taken:
        await finish(ports, one.lease, 2)
    await reap(ports)
    assert await images_in(redis) == []
    assert await held(ports) < IMAGE / 2


async def test_image_that_expired_is_counted_no_more(redis_store: RedisStore) -> None:
    """As after a process of another version ended the jobs that had it."""
    ports, redis = redis_ports(redis_store), redis_store.redis
    job = shown()
    await enqueue(ports, job)
    await redis.hdel(keys.job(job.channel_id), "images")
    await ports.intake.cancel(job.channel_id, StopReason.CLIENT)
    assert await held(ports) > IMAGE
    ttls = {name: await redis.ttl(name) for name in await images_in(redis)}
    for name, ttl in ttls.items():
        await redis.expire(name, ttl - min(ttls.values()))
    assert await redis.keys("*:image:*") == []
    await reap(ports)
    assert await images_in(redis) == []
    assert await held(ports) < IMAGE / 2


async def test_image_that_was_deleted_and_is_sent_again_is_kept_for_all_its_jobs(
    redis_store: RedisStore,
) -> None:
    ports, redis = redis_ports(redis_store), redis_store.redis
    first, second = shown(), shown()
    await enqueue(ports, first)
    await redis.delete(*await redis.keys("*:image:*"))
    await enqueue(ports, second)
    await reap(ports)
    assert IMAGE < await held(ports) < 1.5 * IMAGE
    await finish(ports, (await take_one(ports)).lease, 2)
    assert (await take_one(ports)).job == second


async def refuse_to_replay(ports: Ports, channel_id: str) -> None:
    with pytest.raises(ImageLost):
        await ports.inspector.replay(
            channel_id, new_channel_id=new_channel_id(MODEL), max_waiting=9
        )
    assert await ports.inspector.dead_letter(channel_id) is not None
    assert await take(ports, 9) == []


async def test_dead_letter_whose_image_was_gone_is_not_replayed(redis_store: RedisStore) -> None:
    ports, redis = redis_ports(redis_store), redis_store.redis
    taken = await running(ports, shown())
    await start(ports, taken.lease)
    await redis.delete(*await redis.keys("*:image:*"))
    await crash(ports, taken.lease, max_failures=1)
    await refuse_to_replay(ports, taken.lease.channel_id)
    assert await ports.inspector.drop(taken.lease.channel_id)


async def test_dead_letter_of_a_version_without_images_is_not_replayed(
    redis_store: RedisStore,
) -> None:
    ports, channel_id = redis_ports(redis_store), (job := shown()).channel_id
    taken = await running(ports, job)
    await start(ports, taken.lease)
    await crash(ports, taken.lease, max_failures=1)
    apart = take_out(job)
    await redis_store.redis.hset(
        keys.job(channel_id), mapping={"payload": apart.payload, "images": apart.places}
    )
    await refuse_to_replay(ports, channel_id)


async def test_refused_job_stores_no_image(redis_store: RedisStore) -> None:
    ports = redis_ports(redis_store)
    job = shown()
    with pytest.raises(REFUSED):
        await ports.intake.enqueue(job, max_waiting=9, max_stored_bytes=1000)
    assert await images_in(redis_store.redis) == []
    await enqueue(ports, job, job)
    assert await names(ports, job.channel_id) == ["queued"]
    name = (await redis_store.redis.keys("*:image:*"))[0]
    assert await redis_store.redis.hget(name, "jobs") == b"1"
