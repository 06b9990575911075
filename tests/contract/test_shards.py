"""A model over several queues: each is a queue of its own, and views of the model have all of them."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from relais_common.jobs.channels import channel_queue, new_channel_id, queue_model, queue_of
from relais_common.jobs.errors import IdempotencyConflict, QueueFull
from relais_common.jobs.inspection import ChannelFilter, DeadLetter
from relais_common.jobs.job import Accepted, Idempotency, Job, Priority, QueueDepth
from relais_common.queue.merged import MergedAccounts, MergedInspector
from relais_common.queue.shards import Shards
from relais_testing.builders import MODEL, make_job
from relais_testing.ports import Ports
from relais_testing.steps import append, enqueue, events, finish, ids, start, take
from relais_testing.traced import enqueue_traced

QUEUES = [queue_of(MODEL, shard) for shard in range(2)]


def job_in(shard: int, key_id: str = "key-a", **fields: Any) -> Job:
    return make_job(key_id, channel_id=new_channel_id(QUEUES[shard]), **fields)


@pytest.fixture
async def shards(ports: Ports) -> Shards:
    shards = Shards(ports.registry, {MODEL: 2})
    await shards.look()
    return shards


async def test_jobs_of_a_shard_are_taken_and_run_there_alone(ports: Ports) -> None:
    jobs = [job_in(0), job_in(1)]
    await enqueue(ports, *jobs)
    for queue, job in zip(QUEUES, jobs, strict=True):
        (taken,) = await take(ports, 9, model=queue)
        assert (taken.job, queue_model(queue)) == (job, MODEL)
        await start(ports, taken.lease)
        await append(ports, taken.lease, 3)
        assert (await finish(ports, taken.lease, 4)).held
        state = await ports.intake.state(job.channel_id)
        assert state is not None
        assert (state.model, state.text) == (MODEL, "whole answer")


async def test_lines_of_a_key_and_its_bounds_are_of_one_shard(ports: Ports) -> None:
    jobs = [job_in(shard) for shard in (0, 1, 0, 1)]
    await enqueue(ports, *jobs)
    assert ids(await take(ports, 9, model=QUEUES[1])) == ids(jobs[1::2])
    with pytest.raises(QueueFull, match=f"'{MODEL}'"):
        await enqueue(ports, job_in(0), max_waiting=2)
    await enqueue(ports, job_in(1), max_waiting=2)


async def test_position_counts_what_other_shards_may_serve_meanwhile(ports: Ports) -> None:
    async def put(job: Job, number: int) -> Accepted:
        return await ports.intake.enqueue(job, max_waiting=9, shards=number)

    alone = [await put(job_in(0), 1) for _ in range(2)]
    spread = [await put(job_in(1), 3) for _ in range(2)]
    assert [one.queue_position for one in alone] == [1, 2]
    assert [one.queue_position for one in spread] == [3, 6]
    for one in spread:
        state = await ports.intake.state(one.channel_id)
        (queued,) = await events(ports, one.channel_id)
        assert state is not None
        assert state.queue_position == asdict(queued)["queue_position"] == one.queue_position
    again = await put(make_job(channel_id=spread[1].channel_id), 3)
    assert (again.duplicate, again.queue_position) == (True, 6)


async def test_an_idempotency_key_is_known_in_its_own_shard(ports: Ports) -> None:
    async def put(job: Job, body_hash: str) -> Accepted:
        return await ports.intake.enqueue(
            job, max_waiting=9, idempotency=Idempotency("h", body_hash)
        )

    first = await put(job_in(1), "b")
    assert [await ports.intake.knows(queue, "key-a", "h") for queue in QUEUES] == [False, True]
    assert not await ports.intake.knows(QUEUES[1], "key-b", "h")
    assert (await put(job_in(1), "b")).channel_id == first.channel_id
    with pytest.raises(IdempotencyConflict):
        await put(job_in(1), "other")


async def test_a_model_s_queue_is_the_sum_of_its_shards(ports: Ports, shards: Shards) -> None:
    await enqueue(
        ports,
        *(job_in(0, "a") for _ in range(3)),
        job_in(1, "a", priority=Priority.HIGH),
        *(job_in(1, "b") for _ in range(3)),
    )
    await take(ports, 1, model=QUEUES[0])
    view = await MergedInspector(ports.inspector, shards).queue(MODEL, top_keys=1)
    assert (view.model, view.waiting, view.running) == (MODEL, 6, 1)
    assert view.waiting_by_priority == {"high": 1, "normal": 5, "low": 0, "batch": 0}
    # The longest backlog of each shard is known, and theirs are added up.
    assert [(one.key_id, one.waiting) for one in view.waiting_by_key] == [("b", 3)]
    assert view.oldest_waiting_s is not None
    both = [await ports.inspector.queue(queue, top_keys=1) for queue in QUEUES]
    assert view.stored_bytes == sum(one.stored_bytes for one in both)


async def test_pages_of_requests_are_of_all_shards_in_one_order(
    ports: Ports, shards: Shards
) -> None:
    jobs = [job_in(number % 2, deadline_s=600.0 + number) for number in range(6)]
    await enqueue(ports, *jobs)
    inspector = MergedInspector(ports.inspector, shards)
    for latest, expected in ((False, jobs[:4]), (True, jobs[:1:-1])):
        page = await inspector.channels(MODEL, which=ChannelFilter.ALL, limit=4, latest=latest)
        assert [one.channel_id for one in page] == ids(expected)


async def test_dead_letters_of_all_shards_are_listed_and_replayed_where_they_were(
    ports: Ports, shards: Shards
) -> None:
    jobs = [job_in(0), job_in(1), job_in(0)]
    for job in jobs:
        await enqueue(ports, job)
        (taken,) = await take(ports, model=channel_queue(job.channel_id), lease_s=-1.0)
        await start(ports, taken.lease)
        await ports.recovery.reap(channel_queue(job.channel_id), max_failures=1, limit=9)
    inspector = MergedInspector(ports.inspector, shards)

    async def letters(limit: int) -> list[str]:
        found: list[DeadLetter] = await inspector.dead_letters(MODEL, limit=limit)
        return [one.channel_id for one in found]

    assert await letters(9) == ids(reversed(jobs))
    assert await letters(2) == ids(jobs[:0:-1])
    new = new_channel_id(channel_queue(jobs[1].channel_id))
    again = await inspector.replay(jobs[1].channel_id, new_channel_id=new, max_waiting=9)
    assert again is not None
    assert ids(await take(ports, 9, model=QUEUES[1])) == [new]
    assert await inspector.drop(jobs[2].channel_id)
    assert await letters(9) == ids(jobs[:1])


async def test_usage_of_a_key_is_the_sum_of_its_shards(ports: Ports, shards: Shards) -> None:
    for shard, key_id in ((0, "a"), (1, "a"), (1, "b")):
        await enqueue(ports, job_in(shard, key_id))
        (taken,) = await take(ports, model=QUEUES[shard])
        await start(ports, taken.lease)
        await finish(ports, taken.lease, 3)
    accounts = MergedAccounts(ports.accounts, shards)
    # It may have been midnight meanwhile.
    today = datetime.now(UTC).date()
    usage = await accounts.usage(MODEL, since=today - timedelta(days=1), until=today, key_id=None)
    assert [(one.model, one.key_id, one.completed, one.input_tokens) for one in usage] == [
        (MODEL, "a", 2, 6),
        (MODEL, "b", 1, 3),
    ]
    (own,) = await accounts.usage(MODEL, since=today - timedelta(days=1), until=today, key_id="b")
    assert own == usage[1]


async def test_traces_of_each_shard_are_of_the_model(ports: Ports) -> None:
    await enqueue_traced(ports, *[job := job_in(1)])
    (taken,) = await take(ports, model=QUEUES[1])
    await finish(ports, taken.lease, 2)
    assert not (await ports.traces.collect(MODEL, writer="w", limit=9, claim_after_s=60)).traces
    batch = await ports.traces.collect(QUEUES[1], writer="w", limit=9, claim_after_s=60)
    assert [(one.trace.channel_id, one.trace.model) for one in batch.traces] == [
        (job.channel_id, MODEL)
    ]


async def test_every_process_learns_of_queues_that_any_process_fills(ports: Ports) -> None:
    worker = Shards(ports.registry, {MODEL: 0, "other": 0})
    await worker.look()
    assert worker.queues == [MODEL, "other"]
    few, many = (Shards(ports.registry, {MODEL: number}) for number in (2, 3))
    await many.look()
    await few.look()
    await worker.look()
    three = [queue_of(MODEL, shard) for shard in range(3)]
    for one in (few, many, worker):
        assert one.of(MODEL) == three
        assert set(three) <= set(one.queues)
    assert few.filled(MODEL) == 2
    assert few.numbers(MODEL) == {2, 3}


async def test_depth_is_of_one_queue(ports: Ports) -> None:
    await enqueue(ports, job_in(1))
    assert await ports.intake.depth(MODEL) == QueueDepth(0, 0)
    assert await ports.intake.depth(QUEUES[1]) == QueueDepth(1, 0)
