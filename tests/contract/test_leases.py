"""A job in a worker's hands: whose it is, for how long, and what its holder's death costs."""

from __future__ import annotations

import asyncio

import pytest

from relais_common.jobs.channels import new_channel_id
from relais_common.jobs.errors import WorkerLost
from relais_common.jobs.events import Failed
from relais_common.jobs.job import (
    Interrupted,
    Lease,
    QueueDepth,
    Status,
    StopReason,
    Take,
    TakenJob,
    Verdict,
)
from relais_common.queue.ports import Reaped, TakeRequest
from relais_testing.builders import MODEL, make_job
from relais_testing.ports import Ports
from relais_testing.steps import (
    LONG_S,
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


async def status_of(ports: Ports, channel_id: str) -> Status:
    state = await ports.intake.state(channel_id)
    assert state is not None
    return state.status


async def test_take_from_an_empty_queue_gives_nothing(ports: Ports) -> None:
    assert await take(ports, 5) == []


async def test_take_of_no_jobs_gives_nothing(ports: Ports) -> None:
    await enqueue(ports, make_job())
    assert await take(ports, 0, idle=True) == []
    assert await ports.intake.depth(MODEL) == QueueDepth(waiting=1, running=0)


async def test_take_never_gives_more_than_asked(ports: Ports) -> None:
    await enqueue(ports, *[make_job() for _ in range(5)])
    assert len(await take(ports, 3)) == 3


async def test_take_says_what_a_worker_needs(ports: Ports) -> None:
    taken = await running(ports, make_job(deadline_s=100.0))
    assert (taken.tail, taken.failures, taken.interrupted) == (1, 0, None)
    assert 90 < taken.deadline_in_s <= 100
    assert 0 <= taken.queued_s < 10


async def test_same_call_gives_the_same_jobs_again(ports: Ports) -> None:
    await enqueue(ports, *[make_job() for _ in range(5)])
    first = await take(ports, 2, call_id="c1")
    again = await take(ports, 2, call_id="c1")
    assert [taken.lease for taken in again] == [taken.lease for taken in first]
    assert ids(again) == ids(first)
    assert (await ports.intake.depth(MODEL)) == QueueDepth(waiting=3, running=2)


async def test_same_call_again_leaves_out_jobs_that_ended(ports: Ports) -> None:
    await enqueue(ports, make_job(), make_job())
    first = await take(ports, 2, call_id="c1")
    await finish(ports, first[0].lease, 2)
    assert ids(await take(ports, 2, call_id="c1")) == ids(first[1:])


async def test_same_call_again_leaves_out_jobs_another_worker_has_now(ports: Ports) -> None:
    await enqueue(ports, make_job())
    (mine,) = await take(ports, 1, call_id="c1", worker_id="w1")
    await crash(ports, mine.lease)
    await take_one(ports, worker_id="w2")
    assert await take(ports, 1, call_id="c1", worker_id="w1") == []


async def test_call_ids_of_two_workers_do_not_meet(ports: Ports) -> None:
    jobs = [make_job(), make_job()]
    await enqueue(ports, *jobs)
    taken = [
        *await take(ports, 1, call_id="c1", worker_id="w1"),
        *await take(ports, 1, call_id="c1", worker_id="w2"),
    ]
    assert ids(taken) == ids(jobs)


async def test_racing_workers_never_get_the_same_job(ports: Ports) -> None:
    jobs = [make_job(f"key-{number % 3}") for number in range(60)]
    await enqueue(ports, *jobs)
    hands = await asyncio.gather(
        *(take(ports, 1 + number % 4, worker_id=f"w{number}") for number in range(40))
    )
    given = [channel_id for hand in hands for channel_id in ids(hand)]
    assert len(given) == len(set(given)) == 60


async def test_fence_grows_at_every_take_and_is_never_reset(ports: Ports) -> None:
    await enqueue(ports, make_job())
    fences = []
    for number in range(6):
        taken = await take_one(ports, worker_id=f"w{number}", idle=True)
        fences.append(taken.lease.fence)
        if number % 2:
            await ports.source.release([taken.lease])
        else:
            await crash(ports, taken.lease)
    assert fences == sorted(set(fences))


async def test_lease_that_runs_out_is_requeued_by_the_reaper(ports: Ports) -> None:
    taken = await running(ports)
    await let_expire(ports, taken.lease)
    assert await reap(ports) == Reaped(requeued=1, ended=0)
    assert await ports.intake.depth(MODEL) == QueueDepth(waiting=1, running=0)
    assert await status_of(ports, taken.job.channel_id) is Status.QUEUED


async def test_lease_that_was_renewed_is_not_reaped(ports: Ports) -> None:
    await enqueue(ports, make_job())
    (taken,) = await take(ports, lease_s=-1.0)
    assert await ports.source.renew([taken.lease], lease_s=LONG_S) == [Verdict(held=True, tail=1)]
    assert await reap(ports) == Reaped(0, 0)


async def test_reaper_finds_nothing_the_second_time(ports: Ports) -> None:
    taken = await running(ports)
    await crash(ports, taken.lease)
    assert await reap(ports) == Reaped(0, 0)
    assert ids(await take(ports, 5)) == [taken.job.channel_id]


async def test_racing_reapers_requeue_each_job_once(ports: Ports) -> None:
    jobs = [make_job() for _ in range(30)]
    await enqueue(ports, *jobs)
    await let_expire(ports, *[taken.lease for taken in await take(ports, 30)])
    answers = await asyncio.gather(*(reap(ports, limit=7) for _ in range(12)))
    assert sum(answer.requeued for answer in answers) == 30
    assert ids(await take(ports, 100)) == ids(jobs)


async def test_expired_lease_still_holds_until_somebody_reaps(ports: Ports) -> None:
    taken = await running(ports)
    await let_expire(ports, taken.lease)
    assert (await append(ports, taken.lease, 2)).held


async def test_old_holder_is_told_that_it_lost_the_job(ports: Ports) -> None:
    old = await running(ports)
    await crash(ports, old.lease)
    lost = Verdict(held=False)
    assert await ports.source.renew([old.lease], lease_s=LONG_S) == [lost]  # while it waits
    new = await take_one(ports, worker_id="w2")
    assert await ports.source.renew([old.lease], lease_s=LONG_S) == [lost]
    assert await start(ports, old.lease) == lost
    assert await append(ports, old.lease, 2) == lost
    assert await finish(ports, old.lease, 2) == lost
    await ports.source.release([old.lease])
    assert await names(ports, new.job.channel_id) == ["queued"]
    assert (await ports.source.renew([new.lease], lease_s=LONG_S))[0].held


async def test_renew_answers_each_lease_in_order(ports: Ports) -> None:
    await enqueue(ports, make_job(), make_job(), make_job())
    held, ended, stopped = await take(ports, 3)
    await finish(ports, ended.lease, 2)
    await ports.intake.cancel(stopped.job.channel_id, StopReason.CLIENT)
    unknown = Lease(make_job().channel_id, 1)
    leases = [held.lease, ended.lease, stopped.lease, unknown]
    assert await ports.source.renew(leases, lease_s=LONG_S) == [
        Verdict(held=True, tail=1),
        Verdict(held=False),
        Verdict(held=True, tail=1, stop=StopReason.CLIENT),
        Verdict(held=False),
    ]


async def test_nothing_to_renew_append_or_release_is_no_error(ports: Ports) -> None:
    assert await ports.source.renew([], lease_s=LONG_S) == []
    assert await ports.source.append([]) == []
    await ports.source.release([])


async def test_released_jobs_go_to_the_front_at_no_charge(ports: Ports) -> None:
    jobs = [make_job() for _ in range(4)]
    await enqueue(ports, *jobs)
    taken = await take(ports, 2)
    for one in taken:
        await start(ports, one.lease)
    await ports.source.release([one.lease for one in taken])
    await ports.source.release([one.lease for one in taken])
    assert await ports.intake.depth(MODEL) == QueueDepth(waiting=4, running=0)
    again = await take(ports, 4)
    assert ids(again) == ids(jobs)
    assert [one.failures for one in again] == [0, 0, 0, 0]


async def test_successor_is_told_of_the_log_it_goes_on_from(ports: Ports) -> None:
    taken = await running(ports)
    await start(ports, taken.lease)
    await append(ports, taken.lease, 3)
    await crash(ports, taken.lease)
    successor = await take_one(ports, worker_id="w2")
    assert (successor.tail, successor.failures) == (3, 0)
    assert successor.interrupted == Interrupted(((1, 2, 3),), "r1")


async def test_crash_before_the_engine_had_the_job_is_charged_once_it_was_alone(
    ports: Ports,
) -> None:
    taken = await running(ports)
    assert await crash(ports, taken.lease, max_failures=2) == Reaped(1, 0)
    taken = await take_one(ports, idle=False)
    assert (taken.failures, taken.suspect) == (0, False)
    assert await crash(ports, taken.lease, max_failures=2) == Reaped(1, 0)
    taken = await take_one(ports, idle=True)
    assert (taken.failures, taken.suspect) == (0, True)
    assert await crash(ports, taken.lease, max_failures=2) == Reaped(1, 0)
    taken = await take_one(ports, idle=True)
    assert (taken.failures, taken.suspect) == (1, True)
    assert await crash(ports, taken.lease, max_failures=2) == Reaped(0, 1)
    (last,) = (await events(ports, taken.job.channel_id))[-1:]
    assert isinstance(last, Failed)
    assert last.error.code == WorkerLost.code


async def test_crash_before_the_engine_had_any_of_many_charges_none_and_tries_each_alone(
    ports: Ports,
) -> None:
    jobs = [make_job() for _ in range(20)]
    await enqueue(ports, *jobs)
    for _ in range(2):
        leases = [one.lease for one in await take(ports, 20)]
        assert await crash(ports, *leases, max_failures=1) == Reaped(requeued=20, ended=0)
    assert await take(ports, 5, idle=False) == []
    culprit, *others = [await take_one(ports, idle=True) for _ in range(20)]
    assert sorted(ids([culprit, *others])) == sorted(ids(jobs))
    for one in others:
        await finish(ports, one.lease, 2)
    assert await crash(ports, culprit.lease, max_failures=1) == Reaped(requeued=0, ended=1)


async def test_workers_that_always_die_set_nobody_aside_before_all_were_tried_alone_as_often(
    ports: Ports,
) -> None:
    await enqueue(ports, *[make_job() for _ in range(4)])
    for _ in range(2):
        assert await crash(ports, *[one.lease for one in await take(ports, 4)]) == Reaped(4, 0)
    for round_number in range(2):
        for _ in range(4):
            taken = await take_one(ports, idle=True)
            assert taken.failures == round_number
            assert await crash(ports, taken.lease, max_failures=3) == Reaped(1, 0)


async def test_barren_job_that_did_well_alone_is_no_suspect_any_more(ports: Ports) -> None:
    await crash(ports, (await running(ports)).lease)
    await crash(ports, (await take_one(ports)).lease)
    taken = await take_one(ports, idle=True)
    assert taken.suspect
    await start(ports, taken.lease)
    await append(ports, taken.lease, 3)
    assert await crash(ports, taken.lease, max_failures=1) == Reaped(1, 0)
    taken = await take_one(ports, idle=False)
    assert (taken.failures, taken.suspect) == (0, False)


async def test_draining_before_the_engine_had_the_job_makes_no_suspect(ports: Ports) -> None:
    for _ in range(5):
        taken = await running(ports)
        await ports.source.release([taken.lease])
        taken = await take_one(ports, idle=False)
        assert (taken.failures, taken.suspect) == (0, False)
        await finish(ports, taken.lease, 2)


async def test_barren_suspect_can_be_cancelled_and_has_a_position(ports: Ports) -> None:
    taken = await running(ports)
    await crash(ports, taken.lease)
    await crash(ports, (await take_one(ports)).lease)
    state = await ports.intake.state(taken.job.channel_id)
    assert state is not None
    assert state.queue_position == 1
    await ports.intake.cancel(taken.job.channel_id, StopReason.CLIENT)
    assert await take(ports, 5, idle=True) == []
    assert await ports.intake.depth(MODEL) == QueueDepth(0, 0)


async def test_crash_after_tokens_is_not_charged(ports: Ports) -> None:
    taken = await running(ports)
    for number in range(5):
        await start(ports, taken.lease)
        await append(ports, taken.lease, 3 + number)
        assert await crash(ports, taken.lease, max_failures=1) == Reaped(1, 0)
        taken = await take_one(ports)
        assert taken.failures == 0


async def charged(ports: Ports, taken: TakenJob, *, max_failures: int = 10) -> None:
    """The engine has the job, gives nothing, and takes its worker down."""
    await start(ports, taken.lease)
    assert await crash(ports, taken.lease, max_failures=max_failures) == Reaped(1, 0)


async def test_crash_with_nothing_emitted_is_charged(ports: Ports) -> None:
    await charged(ports, await running(ports))
    assert (await take_one(ports, idle=True)).failures == 1


async def test_events_without_tokens_do_not_save_from_the_charge(ports: Ports) -> None:
    taken = await running(ports)
    await start(ports, taken.lease)
    await append(ports, taken.lease, 3, emits=False)
    await crash(ports, taken.lease)
    successor = await take_one(ports, idle=True)
    assert (successor.failures, successor.interrupted) == (1, None)


async def test_tokens_of_an_earlier_holder_do_not_save_from_the_charge(ports: Ports) -> None:
    taken = await running(ports)
    await start(ports, taken.lease)
    await append(ports, taken.lease, 3)
    await crash(ports, taken.lease)
    await charged(ports, await take_one(ports))
    assert (await take_one(ports, idle=True)).failures == 1


async def test_tokens_sent_again_that_the_log_has_are_no_progress(ports: Ports) -> None:
    taken = await running(ports)
    await start(ports, taken.lease)
    await append(ports, taken.lease, 3)
    await crash(ports, taken.lease)
    second = await take_one(ports)
    await start(ports, second.lease)
    await append(ports, second.lease, 3)
    await crash(ports, second.lease)
    assert (await take_one(ports, idle=True)).failures == 1


async def test_crash_with_many_on_board_kills_no_innocent(ports: Ports) -> None:
    await enqueue(ports, *[make_job() for _ in range(60)])
    taken = await take(ports, 60)
    for one in taken:
        await start(ports, one.lease)
    leases = [one.lease for one in taken]
    assert await crash(ports, *leases, max_failures=2) == Reaped(requeued=60, ended=0)
    for _ in range(60):  # each is run alone now, and does well
        suspect = await take_one(ports, idle=True)
        await finish(ports, suspect.lease, 3)
    assert await ports.intake.depth(MODEL) == QueueDepth(0, 0)


async def test_suspect_is_given_alone_and_only_to_an_idle_worker(ports: Ports) -> None:
    suspect, *others = [make_job() for _ in range(4)]
    await enqueue(ports, suspect)
    await charged(ports, await take_one(ports))
    await enqueue(ports, *others)
    assert await take(ports, 1, idle=False) == []
    assert ids(await take(ports, 5, idle=True)) == ids([suspect])
    assert ids(await take(ports, 5, idle=False)) == ids(others)


async def ask_to_make_way(ports: Ports, worker_id: str, *, idle: bool = False) -> Take:
    return await ports.source.take(
        TakeRequest(
            MODEL, 1, worker_id=worker_id, call_id=new_channel_id(MODEL), lease_s=LONG_S, idle=idle
        )
    )


async def test_one_busy_worker_makes_way_for_a_suspect_and_the_others_work_on(
    ports: Ports,
) -> None:
    suspect, *others = [make_job() for _ in range(4)]
    await enqueue(ports, suspect)
    await charged(ports, await take_one(ports))
    await enqueue(ports, *others)
    assert await ask_to_make_way(ports, "host") == Take((), make_way=True)
    assert ids((await ask_to_make_way(ports, "other")).jobs) == ids(others[:1])
    assert await ask_to_make_way(ports, "host") == Take((), make_way=True)
    assert ids((await ask_to_make_way(ports, "host", idle=True)).jobs) == ids([suspect])
    take = await ask_to_make_way(ports, "host")
    assert (ids(take.jobs), take.make_way) == (ids(others[1:2]), False)


async def test_nobody_makes_way_once_another_worker_was_idle_sooner(ports: Ports) -> None:
    await enqueue(ports, make_job())
    await charged(ports, await take_one(ports))
    other = make_job()
    await enqueue(ports, other)
    assert (await ask_to_make_way(ports, "host")).make_way
    await ask_to_make_way(ports, "idle", idle=True)
    take = await ask_to_make_way(ports, "host")
    assert (ids(take.jobs), take.make_way) == (ids([other]), False)


async def test_worker_that_crashed_and_lives_to_say_so_charges_what_its_engine_had(
    ports: Ports,
) -> None:
    await enqueue(ports, *[make_job() for _ in range(3)])
    engaged, progressed, untouched = await take(ports, 3)
    for taken in (engaged, progressed):
        await start(ports, taken.lease)
    await append(ports, progressed.lease, 3)
    leases = [taken.lease for taken in (engaged, progressed, untouched)]
    for _ in range(2):  # the answer may have been lost
        await ports.source.release(leases, max_failures=3)
    assert ids(await take(ports, 5, idle=True)) == ids([engaged])
    assert ids(await take(ports, 5, idle=True)) == ids([progressed, untouched])


async def test_what_may_have_stuck_an_engine_is_charged_whatever_the_engine_gave_of_it(
    ports: Ports,
) -> None:
    await enqueue(ports, make_job(), make_job())
    engaged, progressed = await take(ports, 2)
    for taken in (engaged, progressed):
        await start(ports, taken.lease)
    await append(ports, progressed.lease, 3)
    for _ in range(2):  # the answer may have been lost
        await ports.source.release([engaged.lease, progressed.lease], max_failures=3, blamed=True)
    for suspect in (engaged, progressed):
        (alone,) = await take(ports, 5, idle=True)
        assert (alone.job.channel_id, alone.failures) == (suspect.job.channel_id, 1)
        # Once too often, it is set aside although it had given something.
        await ports.source.release([alone.lease], max_failures=2, blamed=True)
        assert await status_of(ports, alone.job.channel_id) is Status.FAILED


async def test_crash_that_is_one_too_many_ends_the_job_at_the_release(ports: Ports) -> None:
    taken = await running(ports)
    await start(ports, taken.lease)
    await ports.source.release([taken.lease], max_failures=1)
    assert (await names(ports, taken.job.channel_id))[-1] == "failed"
    assert await ports.intake.depth(MODEL) == QueueDepth(waiting=0, running=0)


async def test_busy_worker_gets_nothing_when_only_suspects_wait(ports: Ports) -> None:
    await charged(ports, await running(ports))
    assert await take(ports, 5, idle=False) == []
    assert await ports.intake.depth(MODEL) == QueueDepth(waiting=1, running=0)


async def test_suspects_are_given_one_at_a_time_in_the_order_they_crashed(ports: Ports) -> None:
    await enqueue(ports, make_job(), make_job())
    for taken in await take(ports, 2):
        await charged(ports, taken)
    first = await take(ports, 5, idle=True)
    second = await take(ports, 5, idle=True, worker_id="w2")
    assert (len(first), len(second)) == (1, 1)
    assert first[0].job.channel_id != second[0].job.channel_id


async def test_suspect_past_its_deadline_makes_way_for_the_next(ports: Ports) -> None:
    late, good = make_job(), make_job()
    await enqueue(ports, late, good)
    for taken in await take(ports, 2):
        await charged(ports, taken)
    await ports.let_deadline_pass(late.channel_id)
    assert ids(await take(ports, 5, idle=True)) == [good.channel_id]
    assert await status_of(ports, late.channel_id) is Status.EXPIRED


async def test_suspect_has_a_position_and_can_be_cancelled(ports: Ports) -> None:
    taken = await running(ports)
    await charged(ports, taken)
    channel_id = taken.job.channel_id
    state = await ports.intake.state(channel_id)
    assert state is not None
    assert (state.status, state.queue_position) == (Status.QUEUED, 1)
    again = await ports.intake.enqueue(taken.job, max_waiting=5)
    assert (again.duplicate, again.queue_position) == (True, 1)
    assert await ports.intake.cancel(channel_id, StopReason.CLIENT) is Status.CANCELLED
    assert await take(ports, 5, idle=True) == []
    assert await ports.intake.depth(MODEL) == QueueDepth(0, 0)


async def test_released_suspect_stays_a_suspect_with_the_same_charge(ports: Ports) -> None:
    await charged(ports, await running(ports))
    taken = await take_one(ports, idle=True)
    await ports.source.release([taken.lease])
    assert await take(ports, 5, idle=False) == []
    assert (await take_one(ports, idle=True)).failures == 1


@pytest.mark.parametrize("max_failures", [1, 2, 3])
async def test_job_that_keeps_killing_its_worker_fails_as_worker_lost(
    ports: Ports, max_failures: int
) -> None:
    taken = await running(ports)
    for _ in range(max_failures - 1):
        await charged(ports, taken, max_failures=max_failures)
        taken = await take_one(ports, idle=True)
    await start(ports, taken.lease)
    assert await crash(ports, taken.lease, max_failures=max_failures) == Reaped(0, 1)
    last = (await events(ports, taken.job.channel_id))[-1]
    assert isinstance(last, Failed)
    assert last.error.code == WorkerLost.code == "worker_lost"
    assert await status_of(ports, taken.job.channel_id) is Status.FAILED
    assert await ports.intake.depth(MODEL) == QueueDepth(0, 0)
    assert await take(ports, 5, idle=True) == []
