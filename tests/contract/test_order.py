"""Which job goes first: age, priority, ageing, turns of keys, and what cancelled jobs leave."""

from __future__ import annotations

import random

import pytest

from relais_common.jobs.job import Job, Priority, StopReason
from relais_common.queue.ports import TakeRequest
from relais_testing.builders import MODEL, make_job
from relais_testing.ports import Ports
from relais_testing.steps import (
    LONG_S,
    crash,
    enqueue,
    finish,
    ids,
    let_expire,
    reap,
    take,
    take_one,
)
from relais_testing.waiting import LIVENESS_S, returns_at_once

PATIENCE = 8
BATCH_PATIENCE = 64


async def drain(ports: Ports, limit: int = 1) -> list[str]:
    order: list[str] = []
    while taken := await take(ports, limit):
        order += ids(taken)
    return order


@pytest.mark.parametrize("limit", [1, 3, 100])
async def test_oldest_first_within_model_priority_and_key(ports: Ports, limit: int) -> None:
    jobs = [make_job() for _ in range(10)]
    await enqueue(ports, *jobs)
    assert await drain(ports, limit) == ids(jobs)


async def test_high_before_normal_before_low(ports: Ports) -> None:
    low, normal, high = (
        make_job(priority=one) for one in (Priority.LOW, Priority.NORMAL, Priority.HIGH)
    )
    await enqueue(ports, low, normal, high)
    assert await drain(ports) == ids([high, normal, low])


@pytest.mark.parametrize("limit", [1, 4])
async def test_low_is_served_after_patience_overtakes_under_constant_high_load(
    ports: Ports, limit: int
) -> None:
    low = make_job(priority=Priority.LOW)
    high = [make_job(priority=Priority.HIGH) for _ in range(PATIENCE + 4)]
    await enqueue(ports, low, *high)
    expected = ids([*high[:PATIENCE], low, *high[PATIENCE:]])
    assert await drain(ports, limit) == expected


async def test_every_low_job_waits_for_its_own_overtakes(ports: Ports) -> None:
    low = [make_job(priority=Priority.LOW) for _ in range(2)]
    high = [make_job(priority=Priority.HIGH) for _ in range(2 * PATIENCE + 2)]
    await enqueue(ports, *low, *high)
    order = await drain(ports)
    assert [order.index(job.channel_id) for job in low] == [PATIENCE, 2 * PATIENCE + 1]


async def test_both_lower_priorities_move_under_constant_high_load(ports: Ports) -> None:
    low, normal = make_job(priority=Priority.LOW), make_job(priority=Priority.NORMAL)
    high = [make_job(priority=Priority.HIGH) for _ in range(PATIENCE + 4)]
    await enqueue(ports, low, normal, *high)
    order = await drain(ports)
    assert {order.index(low.channel_id), order.index(normal.channel_id)} == {
        PATIENCE,
        PATIENCE + 1,
    }


async def test_overtakes_of_a_cancelled_job_do_not_help_a_later_one(ports: Ports) -> None:
    gone = make_job(priority=Priority.LOW)
    high = [make_job(priority=Priority.HIGH) for _ in range(2 * PATIENCE + 2)]
    await enqueue(ports, gone, *high)
    await take(ports, PATIENCE)
    await ports.intake.cancel(gone.channel_id, StopReason.CLIENT)
    late = make_job(priority=Priority.LOW)
    await enqueue(ports, late)
    order = await drain(ports)
    assert order.index(late.channel_id) == PATIENCE


async def test_keys_take_turns_whatever_the_length_of_their_lanes(ports: Ports) -> None:
    long = [make_job("long") for _ in range(6)]
    short = [make_job("short") for _ in range(2)]
    single = make_job("single")
    await enqueue(ports, *long, *short, single)
    assert await drain(ports) == ids(
        [long[0], short[0], single, long[1], short[1], long[2], long[3], long[4], long[5]]
    )


async def test_large_payloads_come_a_few_at_a_time_and_small_ones_in_their_turn(
    ports: Ports,
) -> None:
    large = [make_job("large", prompt="a" * (3 << 19)) for _ in range(7)]
    small = [make_job("small") for _ in range(3)]
    await enqueue(ports, *large, *small)
    assert ids(await take(ports, 64)) == ids([large[0], small[0], large[1], small[1], large[2]])
    assert ids(await take(ports, 64)) == ids([small[2], large[3], large[4], large[5]])
    assert ids(await take(ports, 64)) == ids([large[6]])


async def test_keys_of_which_a_worker_has_enough_wait_for_others(ports: Ports) -> None:
    full = [make_job("full", priority=one) for one in (Priority.HIGH, Priority.LOW)]
    other = [make_job("other", priority=one) for one in (Priority.NORMAL, Priority.NORMAL)]
    await enqueue(ports, *full, *other)

    async def ask(worker_id: str, *without: str) -> list[str]:
        got = await ports.source.take(
            TakeRequest(
                MODEL,
                8,
                worker_id=worker_id,
                call_id=f"{worker_id} {len(without)}",
                lease_s=LONG_S,
                idle=True,
                without=without,
            )
        )
        return ids(got.jobs)

    assert await ask("one", "full", "other") == []
    assert await ask("one", "full") == ids(other)
    # It rang for whoever has room for them.
    assert await returns_at_once(
        ports.source.wait_for_work(MODEL, worker_id="any", timeout_s=LIVENESS_S)
    )
    assert await ask("two") == ids(full)


async def test_new_key_waits_one_turn_of_the_others_at_most(ports: Ports) -> None:
    await enqueue(ports, *[make_job(key) for key in ("a", "b") for _ in range(50)])
    await take(ports, 7)
    late = make_job("late")
    await enqueue(ports, late)
    assert late.channel_id in ids(await take(ports, 3))


async def test_expired_leases_go_back_to_the_front_in_their_old_order(ports: Ports) -> None:
    jobs = [make_job() for _ in range(10)]
    await enqueue(ports, *jobs)
    hands: dict[str, list[Job]] = {"w1": [], "w2": []}
    leases = []
    for number in range(8):
        worker_id = ("w1", "w2")[number % 2]
        taken = await take_one(ports, worker_id=worker_id)
        hands[worker_id].append(taken.job)
        leases.append(taken.lease)
    for batch in (leases[1::2], leases[0::2]):
        assert (await crash(ports, *batch)).requeued == 4
    assert await drain(ports) == ids(jobs)


async def test_requeued_in_any_order_jobs_keep_their_old_order(ports: Ports) -> None:
    rng = random.Random(7)
    jobs = [make_job() for _ in range(80)]
    await enqueue(ports, *jobs)
    leases = [taken.lease for taken in await take(ports, 70)]
    rng.shuffle(leases)
    for lease in leases:
        if rng.random() < 0.5:
            await ports.source.release([lease])
        else:
            await crash(ports, lease)
    assert await drain(ports) == ids(jobs)


async def test_requeued_key_gets_the_next_turn(ports: Ports) -> None:
    mine, other = make_job("a"), [make_job("b"), make_job("b")]
    await enqueue(ports, mine, *other)
    taken = await take_one(ports)
    await crash(ports, taken.lease)
    assert await drain(ports) == ids([mine, *other])


async def test_cancelled_jobs_neither_block_nor_miscount(ports: Ports) -> None:
    jobs = [make_job() for _ in range(1100)]
    await enqueue(ports, *jobs)
    alive = jobs[5::11]
    for job in jobs:
        if job not in alive:
            await ports.intake.cancel(job.channel_id, StopReason.CLIENT)
    assert (await ports.intake.depth(MODEL)).waiting == len(alive) == 100
    for rank, job in enumerate(alive, start=1):
        state = await ports.intake.state(job.channel_id)
        assert state is not None
        assert rank <= state.queue_position <= len(alive)
    (accepted,) = await enqueue(ports, newest := make_job())
    assert accepted.queue_position == 101
    assert ids(await take(ports, 200)) == ids([*alive, newest])
    assert (await ports.intake.depth(MODEL)).waiting == 0


async def test_queue_of_cancelled_jobs_only_is_an_empty_queue(ports: Ports) -> None:
    jobs = [make_job(key) for key in ("a", "b") for _ in range(10)]
    await enqueue(ports, *jobs)
    for job in jobs:
        await ports.intake.cancel(job.channel_id, StopReason.CLIENT)
    assert await take(ports, 5) == []
    (accepted,) = await enqueue(ports, fresh := make_job("a"))
    assert accepted.queue_position == 1
    assert ids(await take(ports, 5)) == [fresh.channel_id]


async def test_position_is_never_too_good_beside_cancelled_jobs(ports: Ports) -> None:
    mine = [make_job("a") for _ in range(30)]
    others = [make_job(f"other-{number}") for number in range(5)]
    await enqueue(ports, *mine, *others)
    await finish(ports, (await take_one(ports)).lease, 2)  # key a had its turn
    for job in mine[2:]:
        await ports.intake.cancel(job.channel_id, StopReason.CLIENT)
    state = await ports.intake.state(mine[1].channel_id)
    assert state is not None
    order = await drain(ports)
    assert state.queue_position >= order.index(mine[1].channel_id) + 1


async def test_positions_after_a_requeue_stay_within_rank_and_waiting(ports: Ports) -> None:
    jobs = [make_job() for _ in range(12)]
    await enqueue(ports, *jobs)
    leases = [taken.lease for taken in await take(ports, 6)]
    for lease in (leases[3], leases[0], leases[5]):
        await ports.source.release([lease])
    waiting = [jobs[0], jobs[3], jobs[5], *jobs[6:]]
    for rank, job in enumerate(waiting, start=1):
        state = await ports.intake.state(job.channel_id)
        assert state is not None
        assert rank <= state.queue_position <= len(waiting)
    (accepted,) = await enqueue(ports, make_job())
    assert accepted.queue_position == len(waiting) + 1


async def test_limit_bounds_one_pass_of_the_reaper(ports: Ports) -> None:
    await enqueue(ports, *[make_job() for _ in range(5)])
    await let_expire(ports, *[taken.lease for taken in await take(ports, 5)])
    assert [(await reap(ports, limit=2)).requeued for _ in range(4)] == [2, 2, 1, 0]


async def test_job_that_expired_in_its_lane_does_not_cost_its_key_the_turn(ports: Ports) -> None:
    late, mine, other = make_job("a", deadline_s=-1.0), make_job("a"), make_job("b")
    await enqueue(ports, late, mine, other)
    assert await drain(ports) == ids([mine, other])


async def test_batch_goes_last_and_is_served_once_many_have_overtaken_it(ports: Ports) -> None:
    batch, low = make_job(priority=Priority.BATCH), make_job(priority=Priority.LOW)
    high = [make_job(priority=Priority.HIGH) for _ in range(BATCH_PATIENCE + 4)]
    await enqueue(ports, batch, low, *high)
    order = await drain(ports, 4)
    assert order.index(low.channel_id) == PATIENCE
    assert order.index(batch.channel_id) == BATCH_PATIENCE


async def test_lines_of_batches_move_no_other_request_of_their_key_back(ports: Ports) -> None:
    await enqueue(ports, *[make_job("a", priority=Priority.BATCH) for _ in range(3)])
    await take(ports, 3)
    a, b = make_job("a"), make_job("b")
    await enqueue(ports, a, b)
    assert await drain(ports) == ids([a, b])


async def test_each_answer_of_a_job_takes_a_place(ports: Ports) -> None:
    jobs = [make_job(n=3), make_job(), make_job(n=2), make_job()]
    await enqueue(ports, *jobs)
    # The last job that begins may have more answers than there is room for: they wait at the worker.
    assert [ids(await take(ports, 4)), ids(await take(ports, 1)), ids(await take(ports, 1))] == [
        ids(jobs[:2]),
        ids(jobs[2:3]),
        ids(jobs[3:]),
    ]


async def test_the_key_that_runs_fewest_answers_goes_first(ports: Ports) -> None:
    first, second, third = make_job("many", n=3), make_job("many"), make_job("few")
    fourth = make_job("few")
    await enqueue(ports, first, second, third, fourth)
    assert await drain(ports) == ids([first, third, fourth, second])
