"""How the queues of one model share a worker's room, and when none of them may take."""

from __future__ import annotations

from contextlib import ExitStack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relais_common.jobs.job import Lease, TakenJob
from relais_common.worker.held import LEFT_S, UNSERVED_S, Hands, HeldJob, HeldJobs
from relais_testing.builders import hold, make_job
from relais_testing.clock import Clock


class Rig:
    """A worker with so many places and queues; what waits in each is a number."""

    def __init__(self, places: int, waiting: list[int]) -> None:
        self.clock = Clock()
        self.hands = Hands(self.clock)
        self.queues = [HeldJobs(self.hands) for _ in waiting]
        self.waiting = waiting
        self.places = places

    def room(self, at: int) -> int:
        return self.hands.room(self.queues[at], lambda held: self.places - held)

    def take(self, at: int) -> int:
        """Take once as a consumer does; return how many jobs came."""
        self.clock.now_s += 0.001
        room = self.room(at)
        if room <= 0:
            return 0
        with self.hands.taking(self.queues[at], room) as came:
            count = min(room, self.waiting[at])
            self.waiting[at] -= count
            came(count)
            for _ in range(count):
                self.queues[at].add(a_job())
        return count

    def end(self, at: int, count: int = 1) -> None:
        for held in self.queues[at].all()[:count]:
            self.queues[at].remove(held)

    @property
    def held(self) -> list[int]:
        return [len(queue) for queue in self.queues]

    def settle(self) -> None:
        """Let all take, time and again. A queue that wanted more has to be told first that there is none."""
        for at in [*range(len(self.queues))] * 10:
            self.take(at)


def a_job(*, suspect: bool = False) -> HeldJob:
    return hold(
        TakenJob(
            job=(job := make_job()),
            lease=Lease(job.channel_id, 1),
            tail=1,
            failures=int(suspect),
            suspect=suspect,
            preempted=0,
            deadline_in_s=600.0,
            queued_s=0.0,
            interrupted=None,
        )
    )


async def test_a_single_queue_has_every_place() -> None:
    rig = Rig(8, [20])
    assert rig.take(0) == 8


async def test_one_of_several_has_all_places_but_those_kept_for_the_others() -> None:
    rig = Rig(8, [20, 0, 0])
    rig.settle()
    assert rig.held == [6, 0, 0]


async def test_first_request_of_a_queue_need_not_wait_for_an_end() -> None:
    rig = Rig(8, [20, 0])
    rig.settle()
    rig.waiting[1] = 3
    assert rig.take(1) == 1


@pytest.mark.parametrize("count", [2, 3, 5])
async def test_queues_that_fill_at_once_hold_the_same(count: int) -> None:
    rig = Rig(60, [100] * count)
    rig.settle()
    assert sum(rig.held) == 60
    assert max(rig.held) - min(rig.held) <= 1


async def test_places_that_become_free_go_to_the_queue_that_holds_fewer() -> None:
    rig = Rig(8, [50, 0])
    rig.settle()
    rig.waiting[1] = 50
    rig.take(1)
    while rig.held[1] < 4:
        rig.end(0)
        assert rig.take(0) == 0
        assert rig.take(1) == 1
    rig.end(1)
    assert (rig.take(0), rig.take(1)) == (0, 1)


async def test_a_single_place_goes_from_queue_to_queue() -> None:
    rig = Rig(1, [9, 9, 9])
    served = []
    for _ in range(9):
        rig.settle()
        served.append(rig.held.index(1))
        rig.end(served[-1])
    assert [served.count(at) for at in range(3)] == [3, 3, 3]


async def test_a_queue_that_filled_while_there_was_no_room_gets_its_share() -> None:
    rig = Rig(4, [50, 1])
    rig.settle()
    assert rig.held == [3, 1]
    rig.waiting[1] = 50
    rig.take(1)
    rig.clock.now_s += UNSERVED_S
    # Meanwhile it asks whether places should change hands.
    with rig.hands.taking(rig.queues[1], 0) as came:
        came(0)
    rig.take(1)
    rig.end(0)
    assert (rig.take(0), rig.take(1)) == (0, 1)


async def test_a_take_that_gets_no_answer_holds_up_no_other_queue() -> None:
    rig = Rig(64, [50, 50])
    rig.queues[0].add(a_job())
    with rig.hands.taking(rig.queues[0], rig.room(0)):
        while rig.take(1):
            pass
        assert rig.held[1] > 16
        rig.end(1)
        assert rig.take(1) == 1


async def test_one_queue_at_a_time_takes_while_nothing_is_held() -> None:
    """What it gets may have to run alone."""
    rig = Rig(8, [1, 1])
    with rig.hands.taking(rig.queues[0], rig.room(0)):
        assert rig.room(1) == 0
    assert rig.room(1) > 0


async def test_nothing_is_taken_beside_a_suspect_of_another_queue() -> None:
    rig = Rig(8, [9, 9])
    rig.queues[0].add(suspect := a_job(suspect=True))
    assert [rig.room(0), rig.room(1)] == [0, 0]
    rig.queues[0].remove(suspect)
    assert rig.room(1) > 0


async def test_a_worker_that_makes_way_takes_nothing_before_the_queue_it_does_so_for() -> None:
    rig = Rig(8, [9, 9])
    rig.queues[1].add(last := a_job())
    rig.hands.make_way(rig.queues[0], 2.0)
    assert [rig.room(0), rig.room(1)] == [0, 0]
    rig.queues[1].remove(last)
    assert rig.room(1) == 0
    assert rig.room(0) > 0
    rig.hands.make_way(rig.queues[1], 0.0)
    assert rig.room(1) == 0, "it is not for another queue to say"
    rig.hands.make_way(rig.queues[0], 0.0)
    assert rig.room(1) > 0


async def test_the_first_room_is_left_to_the_queue_that_was_made_way_for() -> None:
    """Its request that has to run alone still waits, and no other queue knows of it."""
    rig = Rig(8, [9, 9])
    for _ in range(8):
        rig.queues[1].add(a_job())
    rig.hands.make_way(rig.queues[0], 2.0)
    rig.clock.now_s += 30.0
    assert rig.room(1) <= 0
    rig.end(1)
    assert rig.room(1) == 0
    assert rig.room(0) > 0
    rig.hands.make_way(rig.queues[0], 2.0)
    rig.clock.now_s += 30.0
    rig.end(1)
    rig.hands.make_way(rig.queues[0], 0.0)
    assert rig.room(1) > 0, "it needs no more"


async def test_room_that_was_made_is_left_to_a_queue_for_a_moment_only() -> None:
    rig = Rig(8, [9, 9])
    rig.queues[1].add(a_job())
    rig.hands.make_way(rig.queues[0], 2.0)
    rig.clock.now_s += 2.0
    assert rig.room(1) == 0
    rig.clock.now_s += LEFT_S
    assert rig.room(1) > 0


async def test_a_queue_whose_call_hangs_wants_nothing_meanwhile() -> None:
    rig = Rig(4, [50, 50])
    rig.settle()
    rig.end(1)  # it is the one that holds fewer
    with rig.hands.taking(rig.queues[1], 0):
        assert rig.room(0) == 1


async def test_what_came_has_its_places_until_it_is_begun() -> None:
    rig = Rig(2, [9, 9])
    rig.queues[0].add(a_job())
    with rig.hands.taking(rig.queues[1], rig.room(1)) as came:
        came(1)
        assert rig.room(0) == 0
        rig.queues[1].add(a_job())
    assert rig.held == [1, 1]


async def test_no_place_is_promised_twice() -> None:
    @given(st.integers(1, 9), st.lists(st.integers(0, 2), max_size=40))
    def check(places: int, order: list[int]) -> None:
        rig = Rig(places, [99, 99, 99])
        with ExitStack() as under_way:
            for at in order:
                room = rig.room(at)
                if room > 0 and not rig.hands.asks(rig.queues[at]):
                    under_way.enter_context(rig.hands.taking(rig.queues[at], room))
                asked = sum(map(rig.hands.asks, rig.queues))
                assert rig.hands.places + asked <= places

    check()
