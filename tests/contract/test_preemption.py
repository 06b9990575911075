"""What one key runs while others wait: places change hands until none runs two more than one that waits."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Sequence

from relais_common.jobs.job import Job, Priority, QueueDepth, StopReason, Take, TakenJob
from relais_common.queue import keys
from relais_common.queue.ports import TakeRequest
from relais_testing.builders import COMPLETED, MODEL, make_job
from relais_testing.ports import Ports
from relais_testing.steps import (
    LONG_S,
    append,
    crash,
    enqueue,
    finish,
    ids,
    names,
    start,
    take,
    take_one,
)
from relais_testing.traced import enqueue_traced

_call_numbers = itertools.count(1)


async def offer(
    ports: Ports, held: Sequence[TakenJob], *, worker_id: str = "worker-1", call_id: str = ""
) -> Take:
    """A worker without room offers what it holds; `held` is in the order in which it was taken."""
    return await ports.source.take(
        TakeRequest(
            MODEL,
            0,
            worker_id=worker_id,
            call_id=call_id or f"offer-{next(_call_numbers)}",
            lease_s=LONG_S,
            idle=False,
            held=len(held),
            offers=[one.lease for one in reversed(held)],
        )
    )


async def full_of(
    ports: Ports, key_id: str, count: int, *, waiting: int = 0, priority: Priority = Priority.NORMAL
) -> list[TakenJob]:
    """A worker runs so many jobs of this key, and more of them wait."""
    jobs = [make_job(key_id, priority=priority) for _ in range(count + waiting)]
    await enqueue(ports, *jobs)
    return await take(ports, count)


async def settle(ports: Ports, held: list[TakenJob]) -> tuple[list[TakenJob], int]:
    """What the worker holds once no more places change hands, and how many did."""
    changes = 0
    while (took := await offer(ports, held)).jobs:
        assert len(took.jobs) == len(took.preempted)
        changes += len(took.jobs)
        held = [one for one in held if one.job.channel_id not in took.preempted]
        held += took.jobs
    return held, changes


def by_key(held: Sequence[TakenJob]) -> Counter[str]:
    return Counter(one.job.key_id for one in held)


async def test_key_that_waits_gets_the_place_of_the_newest_job_of_the_one_that_runs_all(
    ports: Ports,
) -> None:
    held = await full_of(ports, "many", 6, waiting=20)
    victim = make_job("one")
    await enqueue(ports, victim)
    took = await offer(ports, held)
    assert ids(took.jobs) == [victim.channel_id]
    assert took.preempted == (held[-1].job.channel_id,)
    assert await ports.intake.depth(MODEL) == QueueDepth(waiting=21, running=6)


async def test_nothing_changes_hands_while_nobody_else_waits(ports: Ports) -> None:
    held = await full_of(ports, "alone", 6, waiting=20)
    assert await offer(ports, held) == Take(())
    assert await offer(ports, []) == Take(())


async def test_places_change_hands_until_shares_are_even_and_no_further(ports: Ports) -> None:
    held = await full_of(ports, "many", 12, waiting=50)
    await enqueue(ports, *[make_job("b") for _ in range(50)], *[make_job("c") for _ in range(50)])
    held, changes = await settle(ports, held)
    assert by_key(held) == {"many": 4, "b": 4, "c": 4}
    assert changes == 8


async def test_key_that_wants_little_gets_that_and_the_rest_stays(ports: Ports) -> None:
    held = await full_of(ports, "many", 12, waiting=50)
    await enqueue(ports, make_job("b"), make_job("b"))
    held, changes = await settle(ports, held)
    assert by_key(held) == {"many": 10, "b": 2}
    assert changes == 2


async def test_many_keys_that_wait_get_a_place_each(ports: Ports) -> None:
    held = await full_of(ports, "many", 12, waiting=5)
    await enqueue(ports, *[make_job(f"key-{number}") for number in range(10)])
    held, _ = await settle(ports, held)
    assert by_key(held) == {"many": 2, **{f"key-{number}": 1 for number in range(10)}}


async def test_two_keys_never_take_a_place_from_each_other_in_turn(ports: Ports) -> None:
    held = await full_of(ports, "a", 3, waiting=9)
    await enqueue(ports, *[make_job("b") for _ in range(9)])
    held, changes = await settle(ports, held)
    assert (by_key(held), changes) == ({"a": 2, "b": 1}, 1)


async def test_shares_count_what_a_key_runs_at_all_workers(ports: Ports) -> None:
    mine = await full_of(ports, "a", 3)
    await enqueue(ports, *[make_job("b") for _ in range(6)])
    assert len(await take(ports, 3, worker_id="other")) == 3
    assert await offer(ports, mine) == Take(())
    await enqueue(ports, make_job("c"))
    assert by_key((await offer(ports, mine)).jobs) == {"c": 1}


async def test_lower_priority_takes_no_place_from_a_higher_one(ports: Ports) -> None:
    held = await full_of(ports, "many", 6, priority=Priority.HIGH)
    await enqueue(ports, make_job("low", priority=Priority.NORMAL))
    assert await offer(ports, held) == Take(())
    high = make_job("high", priority=Priority.HIGH)
    await enqueue(ports, high)
    assert ids((await offer(ports, held)).jobs) == [high.channel_id]


async def test_higher_priority_takes_the_place_of_a_lower_one(ports: Ports) -> None:
    held = await full_of(ports, "many", 6, priority=Priority.LOW)
    high = make_job("high", priority=Priority.HIGH)
    await enqueue(ports, make_job("low", priority=Priority.LOW), high)
    took = await offer(ports, held)
    assert ids(took.jobs)[0] == high.channel_id
    assert len(took.jobs) == 2


async def test_line_of_a_batch_gives_its_place_to_whatever_waits_above_it(ports: Ports) -> None:
    held = await full_of(ports, "mine", 3, priority=Priority.LOW)
    held += await full_of(ports, "mine", 2, priority=Priority.BATCH)
    low = make_job("mine", priority=Priority.LOW)
    await enqueue(ports, low)
    took = await offer(ports, held)
    assert ids(took.jobs) == [low.channel_id]
    assert took.preempted == (held[-1].job.channel_id,)


async def test_only_what_is_offered_is_handed_on(ports: Ports) -> None:
    held = await full_of(ports, "many", 6)
    await enqueue(ports, make_job("one"))
    assert (await offer(ports, held[:3])).preempted == (held[2].job.channel_id,)


async def test_job_that_was_asked_to_stop_or_is_held_no_longer_is_not_handed_on(
    ports: Ports,
) -> None:
    held = await full_of(ports, "many", 4)
    await ports.intake.cancel(held[3].job.channel_id, StopReason.CLIENT)
    await finish(ports, held[2].lease, 2)
    await enqueue(ports, make_job("one"))
    assert (await offer(ports, held)).preempted == (held[1].job.channel_id,)


async def test_same_call_gets_the_same_answer(ports: Ports) -> None:
    held = await full_of(ports, "many", 6, waiting=20)
    await enqueue(ports, make_job("one"), make_job("one"))
    first = await offer(ports, held, call_id="lost")
    again = await offer(ports, held, call_id="lost")
    assert [one.lease for one in first.jobs] == [one.lease for one in again.jobs]
    assert first.preempted == again.preempted
    assert len(first.preempted) == 2


async def test_preempted_job_waits_in_front_of_its_lane_uncharged_and_goes_on(ports: Ports) -> None:
    held = await full_of(ports, "many", 3, waiting=5)
    newest = held[-1]
    await start(ports, newest.lease)
    await append(ports, newest.lease, 3)
    await enqueue(ports, make_job("one"))
    took = await offer(ports, held)
    assert took.preempted == (newest.job.channel_id,)
    # Its holder can add nothing more.
    assert not (await append(ports, newest.lease, 4)).held
    assert not (await finish(ports, newest.lease, 4)).held
    (again,) = await take(ports, 1)
    assert again.job == newest.job
    assert (again.failures, again.suspect, again.preempted, again.tail) == (0, False, 1, 3)
    assert again.interrupted is not None
    await finish(ports, again.lease, 4)
    assert await names(ports, again.job.channel_id) == ["queued", "started", "token", "completed"]


async def test_next_free_place_goes_to_the_key_that_runs_least(ports: Ports) -> None:
    held = await full_of(ports, "many", 4, waiting=20)
    few = [make_job("few") for _ in range(3)]
    await enqueue(ports, *few)
    await finish(ports, held[0].lease, 2)
    assert ids(await take(ports, 1)) == ids(few[:1])
    await finish(ports, held[1].lease, 2)
    assert ids(await take(ports, 1)) == ids(few[1:2])
    await finish(ports, held[2].lease, 2)
    # Both run one or two now.
    assert by_key(await take(ports, 1)) == {"many": 1}


async def test_position_counts_on_as_many_more_turns_of_others_as_its_key_runs(
    ports: Ports,
) -> None:
    await full_of(ports, "many", 4)
    await enqueue(ports, *[make_job("few") for _ in range(9)])
    (accepted,) = await enqueue(ports, make_job("many"))
    assert accepted.queue_position == 6
    order = ids(await take(ports, 6))
    assert order.index(accepted.channel_id) < 6


async def test_what_keys_run_is_counted_through_every_end(ports: Ports) -> None:
    held = await full_of(ports, "a", 5)
    await finish(ports, held[0].lease, 2)
    await ports.source.release([held[1].lease])
    await crash(ports, held[2].lease)
    await start(ports, held[3].lease)
    await crash(ports, held[3].lease, max_failures=1)
    await enqueue(ports, make_job("b"))
    # Of `a` runs one only.
    assert await offer(ports, held[4:]) == Take(())


async def test_trace_says_how_often_it_was_preempted_and_its_phases_sum(ports: Ports) -> None:
    job = make_job("many")
    await enqueue(ports, make_job("many"))
    first = await take_one(ports)
    await enqueue_traced(ports, job)
    taken = await take_one(ports)
    await start(ports, taken.lease)
    await append(ports, taken.lease, 3)
    await enqueue(ports, make_job("one"))
    assert (await offer(ports, [first, taken])).preempted == (job.channel_id,)
    (again,) = await take(ports, 1)
    await finish(ports, again.lease, 4)
    batch = await ports.traces.collect(MODEL, writer="w", limit=9, claim_after_s=LONG_S)
    (trace,) = (one.trace for one in batch.traces)
    assert (trace.takes, trace.failures, trace.preemptions) == (2, 0, 1)
    assert abs(trace.e2e_s - (trace.finished_at_s - trace.accepted_at_s)) < 1e-3


async def test_everything_ends_once_however_places_change_hands(ports: Ports) -> None:
    rng = random.Random(14)
    jobs: list[Job] = []
    held: list[TakenJob] = []
    for _ in range(120):
        match rng.randrange(4):
            case 0:
                jobs += (new := [make_job(rng.choice("aaab")) for _ in range(rng.randrange(4))])
                await enqueue(ports, *new)
            case 1 if len(held) < 6:
                held += await take(ports, 6 - len(held))
            case 2 if held:
                took = await offer(ports, held)
                held = [one for one in held if one.job.channel_id not in took.preempted]
                held += took.jobs
            case 3 if held:
                one = held.pop(rng.randrange(len(held)))
                verdict = await ports.source.finish(
                    one.lease, first_seq=one.tail + 1, terminal=COMPLETED, text=""
                )
                assert verdict.held
    while held or (held := await take(ports, 6)):
        await finish(ports, held[0].lease, held.pop(0).tail + 1)
    for job in jobs:
        assert (await names(ports, job.channel_id))[-1] == "completed"
    assert await ports.intake.depth(MODEL) == QueueDepth(0, 0)


def test_running_counts_have_a_key_of_their_own() -> None:
    assert keys.running_jobs(MODEL) == f"{keys.model_base(MODEL)}:running"


async def test_a_job_of_several_answers_gives_its_place_like_as_many_jobs(ports: Ports) -> None:
    many, one = make_job("many", n=4), make_job("one")
    await enqueue(ports, many)
    held = await take(ports, 4)
    await enqueue(ports, one)
    took = await offer(ports, held)
    assert (ids(took.jobs), took.preempted) == (ids([one]), (many.channel_id,))
    # There is room again for all but one of its answers.
    assert ids(await take(ports, 3)) == ids([many])
