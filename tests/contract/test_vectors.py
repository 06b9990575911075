"""Vectors: stored once, beside the log, in the step that ends the job; the event only says how many there are."""

from __future__ import annotations

import math
import struct

from relais_common.jobs.channels import new_channel_id
from relais_common.jobs.events import Completed, Event, Timings, Usage, Vectors
from relais_common.jobs.job import Embedding, InputType, Operation, StopReason, Verdict
from relais_common.queue import keys
from relais_common.queue.redis_store import RedisStore
from relais_testing.builders import make_job, token_line
from relais_testing.ports import Ports, redis_ports
from relais_testing.steps import append, crash, enqueue, events, finish, running, take, take_one

# Every byte may occur, zeros, newlines and what is no UTF-8 included.
PACKED = struct.pack("<6f", 0.0, -1.0, math.pi, 1e-30, 3.4e38, -0.0) + bytes(range(256))
COMPLETED = Completed(
    "stop",
    Usage(7, 0),
    Timings(queue_s=0.1, prefill_s=0.2, decode_s=0.0),
    vectors=Vectors(2, 35, 1),
)


async def last_event(ports: Ports, channel_id: str) -> Event:
    return (await events(ports, channel_id))[-1]


async def test_vectors_come_back_as_they_were_given(ports: Ports) -> None:
    taken = await running(ports)
    channel_id = taken.job.channel_id
    assert await finish(ports, taken.lease, 2, COMPLETED, "", PACKED) == Verdict(True, 2)
    assert await ports.intake.vectors(channel_id) == PACKED
    assert await last_event(ports, channel_id) == COMPLETED


async def test_no_vectors_before_the_end_and_none_for_others(ports: Ports) -> None:
    taken = await running(ports)
    assert await ports.intake.vectors(taken.job.channel_id) is None
    await finish(ports, taken.lease, 2)
    assert await ports.intake.vectors(taken.job.channel_id) is None
    assert await ports.intake.vectors(new_channel_id(taken.job.model)) is None


async def test_end_that_comes_twice_stores_the_first_vectors(ports: Ports) -> None:
    taken = await running(ports)
    await finish(ports, taken.lease, 2, COMPLETED, "", PACKED)
    assert await finish(ports, taken.lease, 2, COMPLETED, "", b"other") == Verdict(True, 2)
    assert await ports.intake.vectors(taken.job.channel_id) == PACKED


async def test_holder_that_lost_its_job_stores_nothing(ports: Ports) -> None:
    old = await running(ports)
    await crash(ports, old.lease)
    new = await take_one(ports, worker_id="w2")
    assert await finish(ports, old.lease, 2, COMPLETED, "", b"old") == Verdict(held=False)
    assert await ports.intake.vectors(old.job.channel_id) is None
    await finish(ports, new.lease, 2, COMPLETED, "", PACKED)
    assert await finish(ports, old.lease, 2, COMPLETED, "", b"old") == Verdict(held=False)
    assert await ports.intake.vectors(old.job.channel_id) == PACKED


async def test_end_that_is_refused_for_a_short_log_stores_nothing(ports: Ports) -> None:
    taken = await running(ports)
    assert await finish(ports, taken.lease, 3, COMPLETED, "", PACKED) == Verdict(True, 1)
    assert await ports.intake.vectors(taken.job.channel_id) is None
    await append(ports, taken.lease, 2, token_line())
    await finish(ports, taken.lease, 3, COMPLETED, "", PACKED)
    assert await ports.intake.vectors(taken.job.channel_id) == PACKED


async def test_cancelled_job_has_no_vectors(ports: Ports) -> None:
    job = make_job()
    await enqueue(ports, job)
    await ports.intake.cancel(job.channel_id, StopReason.CLIENT)
    assert await ports.intake.vectors(job.channel_id) is None


async def test_embedding_reaches_the_worker_as_it_was_asked(ports: Ports) -> None:
    embedding = Embedding(
        inputs=("", "Où est la gare ?", (101, 7592, 102)),
        queries=("the station",),
        input_type=InputType.PASSAGE,
        dimensions=128,
    )
    job = make_job(operation=Operation.SCORE, embedding=embedding)
    await enqueue(ports, job)
    (taken,) = await take(ports)
    assert taken.job == job


async def test_vectors_expire_with_the_result_in_the_slot_of_their_model(
    redis_store: RedisStore,
) -> None:
    ports = redis_ports(redis_store)
    job = make_job(result_ttl_s=500.0)
    await enqueue(ports, job)
    (taken,) = await take(ports)
    await finish(ports, taken.lease, 2, COMPLETED, "", PACKED)
    assert 450 < await redis_store.redis.ttl(keys.vectors(job.channel_id)) <= 500
    assert keys.vectors(job.channel_id).startswith(keys.model_base(job.model) + ":")
