"""Accepting jobs, and saying where they stand."""

from __future__ import annotations

import asyncio

import pytest

from relais_common.jobs.channels import new_channel_id
from relais_common.jobs.errors import IdempotencyConflict, QueueFull, RelaisError, TooManyInFlight
from relais_common.jobs.events import Failed, Queued
from relais_common.jobs.job import (
    Idempotency,
    Job,
    OnDisconnect,
    Operation,
    Priority,
    QueueDepth,
    Sampling,
    Status,
    StopReason,
)
from relais_common.queue import codec
from relais_testing.builders import COMPLETED, MODEL, make_job
from relais_testing.ports import Ports
from relais_testing.steps import (
    append,
    crash,
    enqueue,
    events,
    finish,
    ids,
    read_all,
    reap,
    running,
    start,
    take,
    take_one,
)


async def test_first_job_is_accepted_at_position_one(ports: Ports) -> None:
    job = make_job()
    accepted = await ports.intake.enqueue(job, max_waiting=10)
    assert accepted.channel_id == job.channel_id
    assert accepted.status is Status.QUEUED
    assert accepted.queue_position == 1
    assert accepted.estimated_wait_s is None
    assert not accepted.duplicate


async def test_accepted_job_has_queued_as_its_first_event(ports: Ports) -> None:
    first, second = make_job(), make_job()
    await enqueue(ports, first, second)
    assert await events(ports, second.channel_id) == [Queued(2, None)]


async def test_positions_count_up_within_a_lane(ports: Ports) -> None:
    accepted = await enqueue(ports, *[make_job() for _ in range(4)])
    assert [one.queue_position for one in accepted] == [1, 2, 3, 4]


async def test_position_counts_all_of_higher_priority(ports: Ports) -> None:
    await enqueue(
        ports,
        make_job(priority=Priority.HIGH),
        make_job(priority=Priority.HIGH),
        make_job(priority=Priority.NORMAL),
        make_job(priority=Priority.LOW),
    )
    (normal,) = await enqueue(ports, make_job(priority=Priority.NORMAL))
    assert normal.queue_position == 4


async def test_position_of_a_new_key_counts_one_turn_of_each_other_key(ports: Ports) -> None:
    await enqueue(ports, *[make_job("a") for _ in range(5)], *[make_job("b") for _ in range(5)])
    (accepted,) = await enqueue(ports, make_job("c"))
    assert accepted.queue_position == 3


async def test_estimated_wait_follows_from_measured_service_time(ports: Ports) -> None:
    taken = await running(ports)
    await finish(ports, taken.lease, 2)
    (accepted,) = await enqueue(ports, make_job())
    assert accepted.estimated_wait_s is not None
    assert 0 <= accepted.estimated_wait_s < 10


async def test_full_queue_refuses_and_says_when_to_come_back(ports: Ports) -> None:
    await enqueue(ports, make_job(), make_job(), max_waiting=2)
    with pytest.raises(QueueFull) as refused:
        await ports.intake.enqueue(make_job(), max_waiting=2)
    assert refused.value.status == 429
    assert refused.value.retry_after_s is not None
    assert refused.value.retry_after_s > 0
    assert await ports.intake.depth(MODEL) == QueueDepth(waiting=2, running=0)


async def enqueue_bounded(ports: Ports, key_id: str, bound: int) -> Job:
    job = make_job(key_id)
    await ports.intake.enqueue(job, max_waiting=100, max_inflight_per_key=bound)
    return job


async def test_key_has_no_more_unfinished_jobs_than_its_bound_waiting_or_running(
    ports: Ports,
) -> None:
    await enqueue_bounded(ports, "a", 2)
    taken = await take_one(ports)
    await enqueue_bounded(ports, "a", 2)
    with pytest.raises(TooManyInFlight) as refused:
        await enqueue_bounded(ports, "a", 2)
    assert (refused.value.status, refused.value.code) == (429, "too_many_in_flight")
    assert refused.value.retry_after_s is not None
    await enqueue_bounded(ports, "b", 2)
    await finish(ports, taken.lease, 2)
    await enqueue_bounded(ports, "a", 2)


async def test_every_end_gives_the_key_its_place_back_once(ports: Ports) -> None:
    cancelled = await enqueue_bounded(ports, "a", 3)
    await ports.intake.cancel(cancelled.channel_id, StopReason.CLIENT)
    await ports.intake.cancel(cancelled.channel_id, StopReason.CLIENT)
    await ports.intake.enqueue(make_job("a", deadline_s=-1.0), max_waiting=9)
    await reap(ports)
    for terminal in (COMPLETED, Failed(RelaisError("no").info)):
        await enqueue_bounded(ports, "a", 3)
        taken = await take_one(ports)
        await crash(ports, taken.lease)
        taken = await take_one(ports)
        for _ in range(2):
            await finish(ports, taken.lease, 2, terminal)
    for _ in range(3):
        await enqueue_bounded(ports, "a", 3)
    with pytest.raises(TooManyInFlight):
        await enqueue_bounded(ports, "a", 3)


async def test_refused_job_leaves_nothing_behind(ports: Ports) -> None:
    await running(ports)
    job = make_job()
    with pytest.raises(QueueFull):
        await ports.intake.enqueue(job, max_waiting=0)
    assert await ports.intake.state(job.channel_id) is None
    assert await read_all(ports, job.channel_id) == []
    assert await take(ports, 5) == []


async def test_taken_jobs_make_room_in_a_full_queue(ports: Ports) -> None:
    await enqueue(ports, make_job(), max_waiting=1)
    await take_one(ports)
    await ports.intake.enqueue(make_job(), max_waiting=1)


async def test_enqueue_again_with_the_same_channel_changes_nothing(ports: Ports) -> None:
    job = make_job()
    first = await ports.intake.enqueue(job, max_waiting=1)
    again = await ports.intake.enqueue(job, max_waiting=1)
    assert again.duplicate
    assert (again.channel_id, again.status) == (first.channel_id, Status.QUEUED)
    assert again.queue_position == first.queue_position
    assert len(await read_all(ports, job.channel_id)) == 1
    assert ids(await take(ports, 5)) == [job.channel_id]


async def test_enqueue_again_after_the_end_does_not_revive_the_job(ports: Ports) -> None:
    taken = await running(ports)
    await finish(ports, taken.lease, 2)
    again = await ports.intake.enqueue(taken.job, max_waiting=10)
    assert again.duplicate
    assert (again.status, again.queue_position) == (Status.COMPLETED, 0)
    assert await take(ports, 5) == []


async def test_same_idempotency_key_and_body_give_the_first_channel(ports: Ports) -> None:
    idempotency = Idempotency("key-hash", "body-hash")
    first, second = make_job(), make_job()
    await ports.intake.enqueue(first, max_waiting=10, idempotency=idempotency)
    answer = await ports.intake.enqueue(second, max_waiting=10, idempotency=idempotency)
    assert answer.duplicate
    assert answer.channel_id == first.channel_id
    assert await ports.intake.state(second.channel_id) is None
    assert (await ports.intake.depth(MODEL)).waiting == 1


async def test_same_idempotency_key_with_another_body_is_refused(ports: Ports) -> None:
    await ports.intake.enqueue(
        make_job(), max_waiting=10, idempotency=Idempotency("key-hash", "one")
    )
    with pytest.raises(IdempotencyConflict):
        await ports.intake.enqueue(
            make_job(), max_waiting=10, idempotency=Idempotency("key-hash", "other")
        )
    assert (await ports.intake.depth(MODEL)).waiting == 1


async def test_same_idempotency_key_is_answered_even_when_the_queue_is_full(ports: Ports) -> None:
    idempotency = Idempotency("key-hash", "body-hash")
    first = make_job()
    await ports.intake.enqueue(first, max_waiting=1, idempotency=idempotency)
    answer = await ports.intake.enqueue(make_job(), max_waiting=1, idempotency=idempotency)
    assert answer.channel_id == first.channel_id


async def test_idempotency_keys_of_two_tenants_do_not_meet(ports: Ports) -> None:
    idempotency = Idempotency("key-hash", "body-hash")
    for key_id in ("a", "b"):
        accepted = await ports.intake.enqueue(
            make_job(key_id), max_waiting=10, idempotency=idempotency
        )
        assert not accepted.duplicate


async def test_racing_posts_with_one_idempotency_key_make_one_job(ports: Ports) -> None:
    idempotency = Idempotency("key-hash", "body-hash")
    answers = await asyncio.gather(
        *(
            ports.intake.enqueue(make_job(), max_waiting=100, idempotency=idempotency)
            for _ in range(20)
        )
    )
    assert len({answer.channel_id for answer in answers}) == 1
    assert [answer.duplicate for answer in answers].count(False) == 1
    assert (await ports.intake.depth(MODEL)).waiting == 1


async def test_racing_posts_never_exceed_the_bound(ports: Ports) -> None:
    answers = await asyncio.gather(
        *(ports.intake.enqueue(make_job(), max_waiting=5) for _ in range(20)),
        return_exceptions=True,
    )
    assert sum(isinstance(answer, QueueFull) for answer in answers) == 15
    assert (await ports.intake.depth(MODEL)).waiting == 5


async def test_taken_job_is_the_job_that_was_enqueued(ports: Ports) -> None:
    job = make_job(
        prompt=(1, 2, 3),
        operation=Operation.TEXT_COMPLETION,
        sampling=Sampling(max_tokens=5, temperature=0.0, stop=("\n", "é"), logit_bias={"7": -1.5}),
        on_disconnect=OnDisconnect.CANCEL,
    )
    assert (await running(ports, job)).job == job


async def test_models_do_not_see_each_other(ports: Ports) -> None:
    mine, other = make_job(), make_job(model="other/model")
    await enqueue(ports, mine, other)
    assert ids(await take(ports, 5)) == [mine.channel_id]
    assert await ports.intake.depth("other/model") == QueueDepth(waiting=1, running=0)
    assert ids(await take(ports, 5, model="other/model")) == [other.channel_id]


@pytest.mark.parametrize("key_id", ["a:b", "{x}", "clé avec espace", "high", "a\nb", "*"])
async def test_any_key_id_has_its_own_lane(ports: Ports, key_id: str) -> None:
    mine, other = make_job(key_id), make_job("other")
    await enqueue(ports, mine, other)
    assert ids(await take(ports, 5)) == ids([mine, other])
    state = await ports.intake.state(mine.channel_id)
    assert state is not None
    assert state.key_id == key_id


async def test_state_of_an_unknown_channel_is_none(ports: Ports) -> None:
    assert await ports.intake.state(new_channel_id(MODEL)) is None


async def test_state_of_a_queued_job(ports: Ports) -> None:
    job = make_job("key-x", on_disconnect=OnDisconnect.CANCEL)
    await enqueue(ports, make_job("key-x"), job)
    state = await ports.intake.state(job.channel_id)
    assert state is not None
    assert (state.channel_id, state.model, state.key_id) == (job.channel_id, MODEL, "key-x")
    assert state.operation is Operation.CHAT
    assert state.on_disconnect is OnDisconnect.CANCEL
    assert state.status is Status.QUEUED
    assert (state.queue_position, state.estimated_wait_s) == (2, None)
    assert state.tail == 1
    assert state.accepted_at_s > 1e9
    assert (state.started_at_s, state.finished_at_s) == (None, None)
    assert (state.text, state.outcome) == (None, None)


async def test_state_of_a_running_job(ports: Ports) -> None:
    taken = await running(ports)
    await start(ports, taken.lease)
    await append(ports, taken.lease, 3)
    state = await ports.intake.state(taken.job.channel_id)
    assert state is not None
    assert (state.status, state.queue_position, state.tail) == (Status.RUNNING, 0, 3)
    assert state.started_at_s is not None
    assert state.started_at_s >= state.accepted_at_s
    assert (state.finished_at_s, state.text, state.outcome) == (None, None, None)


async def test_state_of_a_completed_job(ports: Ports) -> None:
    taken = await running(ports)
    await start(ports, taken.lease)
    await finish(ports, taken.lease, 3, text="réponse")
    state = await ports.intake.state(taken.job.channel_id)
    assert state is not None
    assert (state.status, state.tail, state.text) == (Status.COMPLETED, 3, "réponse")
    assert state.finished_at_s is not None
    assert state.outcome == codec.encode_event(COMPLETED)


async def test_state_of_a_job_cancelled_while_queued(ports: Ports) -> None:
    job = make_job()
    await enqueue(ports, job)
    await ports.intake.cancel(job.channel_id, StopReason.CLIENT)
    state = await ports.intake.state(job.channel_id)
    assert state is not None
    assert (state.status, state.queue_position, state.tail) == (Status.CANCELLED, 0, 2)
    assert (state.text, state.started_at_s) == ("", None)
    assert state.outcome == b'cancelled {"reason":"client"}'


async def test_depth_counts_waiting_and_running(ports: Ports) -> None:
    assert await ports.intake.depth(MODEL) == QueueDepth(0, 0)
    await enqueue(ports, *[make_job() for _ in range(5)])
    taken = await take(ports, 2)
    assert await ports.intake.depth(MODEL) == QueueDepth(waiting=3, running=2)
    await finish(ports, taken[0].lease, 2)
    assert await ports.intake.depth(MODEL) == QueueDepth(waiting=3, running=1)
    await ports.source.release([taken[1].lease])
    assert await ports.intake.depth(MODEL) == QueueDepth(waiting=4, running=0)
