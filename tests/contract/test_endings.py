"""Cancel, deadline, nobody watching: every job ends once, whoever races."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable

import pytest

from relais_common.jobs.channels import new_channel_id
from relais_common.jobs.events import Cancelled, Expired, Queued
from relais_common.jobs.job import (
    Job,
    OnDisconnect,
    Priority,
    QueueDepth,
    Status,
    StopReason,
    TakenJob,
    Verdict,
)
from relais_common.queue import codec
from relais_common.queue.ports import ANY_LINE, Reaped
from relais_testing.builders import MODEL, make_job
from relais_testing.ports import Ports
from relais_testing.steps import (
    LONG_S,
    PAST_S,
    append,
    crash,
    enqueue,
    events,
    finish,
    ids,
    let_expire,
    names,
    read_all,
    reap,
    running,
    start,
    take,
)


async def status_of(ports: Ports, job: Job) -> Status:
    state = await ports.intake.state(job.channel_id)
    assert state is not None
    return state.status


@pytest.mark.parametrize("reason", [StopReason.CLIENT, StopReason.DISCONNECT])
async def test_cancel_of_a_queued_job_ends_it_at_once(ports: Ports, reason: StopReason) -> None:
    job = make_job()
    await enqueue(ports, job)
    assert await ports.intake.cancel(job.channel_id, reason) is Status.CANCELLED
    assert (await events(ports, job.channel_id))[-1] == Cancelled(reason)
    assert await take(ports, 5) == []
    assert await ports.intake.depth(MODEL) == QueueDepth(0, 0)


async def test_cancel_of_a_running_job_asks_its_holder_to_stop(ports: Ports) -> None:
    taken = await running(ports)
    channel_id = taken.job.channel_id
    assert await ports.intake.cancel(channel_id, StopReason.CLIENT) is Status.RUNNING
    stop = StopReason.CLIENT
    assert await start(ports, taken.lease) == Verdict(held=True, tail=2, stop=stop)
    assert await append(ports, taken.lease, 3) == Verdict(held=True, tail=3, stop=stop)
    (renewed,) = await ports.source.renew([taken.lease], lease_s=LONG_S)
    assert renewed == Verdict(held=True, tail=3, stop=stop)
    assert await finish(ports, taken.lease, 4, Cancelled(stop), "partial") == Verdict(True, 4)
    assert await ports.intake.cancel(channel_id, StopReason.CLIENT) is Status.CANCELLED


async def test_first_reason_to_stop_stays(ports: Ports) -> None:
    taken = await running(ports)
    await ports.intake.cancel(taken.job.channel_id, StopReason.DISCONNECT)
    await ports.intake.cancel(taken.job.channel_id, StopReason.CLIENT)
    assert (await append(ports, taken.lease, 2)).stop is StopReason.DISCONNECT


async def test_cancel_of_an_ended_job_changes_nothing(ports: Ports) -> None:
    taken = await running(ports)
    await finish(ports, taken.lease, 2)
    channel_id = taken.job.channel_id
    assert await ports.intake.cancel(channel_id, StopReason.CLIENT) is Status.COMPLETED
    assert await names(ports, channel_id) == ["queued", "completed"]


async def test_cancel_of_an_unknown_channel_is_none(ports: Ports) -> None:
    assert await ports.intake.cancel(new_channel_id(MODEL), StopReason.CLIENT) is None


async def test_cancel_again_writes_nothing(ports: Ports) -> None:
    job = make_job()
    await enqueue(ports, job)
    for _ in range(3):
        status = await ports.intake.cancel(job.channel_id, StopReason.CLIENT)
        assert status is Status.CANCELLED
    assert await names(ports, job.channel_id) == ["queued", "cancelled"]


async def test_job_asked_to_stop_ends_when_its_holder_dies(ports: Ports) -> None:
    taken = await running(ports)
    await ports.intake.cancel(taken.job.channel_id, StopReason.CLIENT)
    assert await crash(ports, taken.lease) == Reaped(requeued=0, ended=1)
    assert (await events(ports, taken.job.channel_id))[-1] == Cancelled(StopReason.CLIENT)
    assert await take(ports, 5) == []


@pytest.mark.parametrize("reason", [StopReason.CLIENT, StopReason.DISCONNECT])
async def test_job_asked_to_stop_ends_when_its_holder_hands_it_back(
    ports: Ports, reason: StopReason
) -> None:
    taken = await running(ports)
    await ports.intake.cancel(taken.job.channel_id, reason)
    await ports.source.release([taken.lease])
    assert (await events(ports, taken.job.channel_id))[-1] == Cancelled(reason)
    assert await take(ports, 5) == []
    assert await ports.intake.depth(MODEL) == QueueDepth(0, 0)


async def test_queued_job_past_its_deadline_is_expired_by_the_reaper(ports: Ports) -> None:
    late, good = make_job(deadline_s=PAST_S), make_job()
    await enqueue(ports, late, good)
    assert await reap(ports) == Reaped(requeued=0, ended=1)
    assert (await events(ports, late.channel_id))[-1] == Expired()
    assert await status_of(ports, late) is Status.EXPIRED
    assert ids(await take(ports, 5)) == [good.channel_id]


async def test_queued_job_past_its_deadline_is_expired_by_a_take(ports: Ports) -> None:
    late, good = make_job(deadline_s=PAST_S), make_job()
    await enqueue(ports, late, good)
    assert ids(await take(ports, 1)) == [good.channel_id]
    assert (await events(ports, late.channel_id))[-1] == Expired()
    assert await reap(ports) == Reaped(0, 0)
    assert await ports.intake.depth(MODEL) == QueueDepth(waiting=0, running=1)


async def test_taking_from_a_queue_of_expired_jobs_gives_nothing_and_ends_all(
    ports: Ports,
) -> None:
    jobs = [make_job(f"key-{number % 3}", deadline_s=PAST_S) for number in range(9)]
    await enqueue(ports, *jobs)
    assert await take(ports, 2, idle=True) == []
    assert {await status_of(ports, job) for job in jobs} == {Status.EXPIRED}
    assert await ports.intake.depth(MODEL) == QueueDepth(0, 0)


async def running_past_its_deadline(ports: Ports) -> TakenJob:
    """A job whose time ran out in its holder's hands, and that was asked to stop for it."""
    taken = await running(ports)
    await ports.let_deadline_pass(taken.job.channel_id)
    assert await reap(ports) == Reaped(0, 0)
    (verdict,) = await ports.source.renew([taken.lease], lease_s=LONG_S)
    assert verdict.stop is StopReason.DEADLINE
    return taken


async def test_running_job_past_its_deadline_is_asked_to_stop(ports: Ports) -> None:
    async with ports.source.stop_requests(MODEL) as requests:
        taken = await running_past_its_deadline(ports)
        assert await anext(requests) == taken.job.channel_id
    assert (await start(ports, taken.lease)).stop is StopReason.DEADLINE
    assert (await append(ports, taken.lease, 3)).stop is StopReason.DEADLINE
    await finish(ports, taken.lease, 4, Expired(), "partial")
    assert await status_of(ports, taken.job) is Status.EXPIRED


async def test_running_job_past_its_deadline_expires_when_its_holder_dies(ports: Ports) -> None:
    taken = await running_past_its_deadline(ports)
    assert await crash(ports, taken.lease) == Reaped(requeued=0, ended=1)
    assert await events(ports, taken.job.channel_id) == [Queued(1, None), Expired()]


async def test_running_job_past_its_deadline_expires_when_handed_back(ports: Ports) -> None:
    taken = await running_past_its_deadline(ports)
    await ports.source.release([taken.lease])
    assert await status_of(ports, taken.job) is Status.EXPIRED


async def test_limit_bounds_the_deadlines_of_one_pass(ports: Ports) -> None:
    await enqueue(ports, *[make_job(deadline_s=PAST_S) for _ in range(3)])
    assert [(await reap(ports, limit=2)).ended for _ in range(3)] == [2, 1, 0]


async def test_unwatched_job_is_cancelled_by_the_reaper(ports: Ports) -> None:
    job = make_job(on_disconnect=OnDisconnect.CANCEL)
    await enqueue(ports, job)
    await ports.intake.watch(job.channel_id, lease_s=PAST_S)
    assert await reap(ports) == Reaped(requeued=0, ended=1)
    assert (await events(ports, job.channel_id))[-1] == Cancelled(StopReason.DISCONNECT)


async def test_new_job_has_time_until_its_first_watcher(ports: Ports) -> None:
    await enqueue(ports, make_job(on_disconnect=OnDisconnect.CANCEL))
    assert await reap(ports) == Reaped(0, 0)


async def test_watched_job_is_left_alone(ports: Ports) -> None:
    job = make_job(on_disconnect=OnDisconnect.CANCEL)
    await enqueue(ports, job)
    await ports.intake.watch(job.channel_id, lease_s=PAST_S)
    await ports.intake.watch(job.channel_id, lease_s=LONG_S)
    assert await reap(ports) == Reaped(0, 0)
    assert await status_of(ports, job) is Status.QUEUED


async def test_job_that_goes_on_without_readers_is_left_alone(ports: Ports) -> None:
    job = make_job(on_disconnect=OnDisconnect.CONTINUE)
    await enqueue(ports, job)
    await ports.intake.watch(job.channel_id, lease_s=PAST_S)
    assert await reap(ports) == Reaped(0, 0)


async def test_unwatched_job_in_a_workers_hands_is_asked_to_stop(ports: Ports) -> None:
    taken = await running(ports, make_job(on_disconnect=OnDisconnect.CANCEL))
    await ports.intake.watch(taken.job.channel_id, lease_s=PAST_S)
    assert await reap(ports) == Reaped(0, 0)
    assert (await append(ports, taken.lease, 2)).stop is StopReason.DISCONNECT


async def test_unwatched_job_whose_holder_died_too_ends_in_one_pass(ports: Ports) -> None:
    taken = await running(ports, make_job(on_disconnect=OnDisconnect.CANCEL))
    await ports.intake.watch(taken.job.channel_id, lease_s=PAST_S)
    assert await crash(ports, taken.lease) == Reaped(requeued=0, ended=1)
    assert (await events(ports, taken.job.channel_id))[-1] == Cancelled(StopReason.DISCONNECT)


async def test_watching_an_ended_or_unknown_channel_does_nothing(ports: Ports) -> None:
    taken = await running(ports, make_job(on_disconnect=OnDisconnect.CANCEL))
    await finish(ports, taken.lease, 2)
    await ports.intake.watch(taken.job.channel_id, lease_s=PAST_S)
    await ports.intake.watch(new_channel_id(MODEL), lease_s=PAST_S)
    assert await reap(ports) == Reaped(0, 0)
    assert await names(ports, taken.job.channel_id) == ["queued", "completed"]


async def test_stop_request_reaches_whoever_listens(ports: Ports) -> None:
    taken = await running(ports)
    async with ports.source.stop_requests(MODEL) as requests:
        await ports.intake.cancel(taken.job.channel_id, StopReason.CLIENT)
        assert await anext(requests) == taken.job.channel_id


async def test_stop_request_reaches_every_listener(ports: Ports) -> None:
    taken = await running(ports)
    async with (
        ports.source.stop_requests(MODEL) as one,
        ports.source.stop_requests(MODEL) as two,
    ):
        await ports.intake.cancel(taken.job.channel_id, StopReason.CLIENT)
        assert await anext(one) == await anext(two) == taken.job.channel_id


async def test_stop_requests_of_other_models_and_queued_jobs_are_not_heard(ports: Ports) -> None:
    queued, foreign = make_job(), make_job(model="other/model")
    taken = await running(ports)
    await enqueue(ports, queued, foreign)
    await take(ports, 1, model="other/model")
    async with ports.source.stop_requests(MODEL) as requests:
        for channel_id in (queued.channel_id, foreign.channel_id, taken.job.channel_id):
            await ports.intake.cancel(channel_id, StopReason.CLIENT)
        assert await anext(requests) == taken.job.channel_id


async def test_lines_of_batches_are_asked_for_their_places_while_some_wait(ports: Ports) -> None:
    await enqueue(ports, make_job("a", priority=Priority.BATCH))
    async with ports.source.stop_requests(MODEL) as requests:
        await enqueue(ports, make_job("a", priority=Priority.BATCH))
        await enqueue(ports, make_job("a", priority=Priority.LOW))
        assert await anext(requests) == ANY_LINE
        await take(ports, 3)
        await enqueue(ports, make_job("a"))
        running_job = (await take(ports, 1))[0].job
        await ports.intake.cancel(running_job.channel_id, StopReason.CLIENT)
        assert await anext(requests) == running_job.channel_id


async def test_unwatched_running_job_is_announced_by_the_reaper(ports: Ports) -> None:
    taken = await running(ports, make_job(on_disconnect=OnDisconnect.CANCEL))
    await ports.intake.watch(taken.job.channel_id, lease_s=PAST_S)
    async with ports.source.stop_requests(MODEL) as requests:
        await reap(ports)
        assert await anext(requests) == taken.job.channel_id


async def terminal_lines(ports: Ports, job: Job) -> list[bytes]:
    lines = await read_all(ports, job.channel_id)
    return [line for line in lines if codec.split_event(line)[0] in codec.TERMINAL_NAMES]


@pytest.mark.parametrize("seed", range(20))
async def test_exactly_one_terminal_event_whoever_races(ports: Ports, seed: int) -> None:
    rng = random.Random(seed)
    jobs = [make_job(f"key-{rng.randrange(3)}") for _ in range(12)]
    await enqueue(ports, *jobs)
    taken = await take(ports, 8, worker_id="w1")
    for one in taken:
        if rng.random() < 0.5:
            await start(ports, one.lease)
    await let_expire(ports, *[one.lease for one in taken if rng.random() < 0.7])
    steps: list[Awaitable[object]] = []
    for one in taken:
        steps.append(finish(ports, one.lease, rng.choice([2, 3])))
        steps.append(append(ports, one.lease, rng.choice([2, 3])))
    for job in jobs:
        steps.append(ports.intake.cancel(job.channel_id, StopReason.CLIENT))
        if rng.random() < 0.3:
            steps.append(ports.intake.cancel(job.channel_id, StopReason.DISCONNECT))
    steps += [reap(ports, max_failures=1) for _ in range(5)]
    steps += [take(ports, 3, worker_id=f"w{2 + number}", idle=True) for number in range(4)]
    steps.append(ports.source.release([one.lease for one in taken if rng.random() < 0.3]))
    rng.shuffle(steps)
    answers = await asyncio.gather(*steps)
    leases = [one.lease for one in taken]
    for answer in answers:
        if isinstance(answer, list):
            leases += [one.lease for one in answer if isinstance(one, TakenJob)]

    # Whatever is left is brought to its end.
    for job in jobs:
        await ports.intake.cancel(job.channel_id, StopReason.CLIENT)
    for number in range(20):
        for one in await take(ports, 5, worker_id=f"last-{number}", idle=True):
            await finish(ports, one.lease, one.tail + 1)
    for job in jobs:
        state = await ports.intake.state(job.channel_id)
        assert state is not None
        if state.status is Status.RUNNING:
            # Whoever has it, by whichever take.
            await ports.source.renew(leases, lease_s=PAST_S)
    await reap(ports)

    for job in jobs:
        lines = await read_all(ports, job.channel_id)
        assert await terminal_lines(ports, job) == [lines[-1]]
        assert (await status_of(ports, job)).value == codec.split_event(lines[-1])[0].decode()
    assert await ports.intake.depth(MODEL) == QueueDepth(0, 0)
    assert await take(ports, 5, idle=True) == []
