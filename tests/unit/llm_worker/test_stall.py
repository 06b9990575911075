"""When an engine counts as stuck, and who may be why."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from relais_llm_worker.engines.stall import LONGEST_LOOK_S, StallWatch
from relais_testing.clock import Clock


@pytest.fixture
def clock() -> Clock:
    return Clock(100.0)


@pytest.fixture
def watch(clock: Clock) -> StallWatch:
    return StallWatch(10.0, clock)


def looks(watch: StallWatch, clock: Clock, steps: int, seconds: int) -> frozenset[str]:
    """One look a second."""
    suspects: frozenset[str] = frozenset()
    for _ in range(seconds):
        clock.now_s += 1
        suspects = watch.look(steps)
    return suspects


def test_an_engine_with_nothing_to_do_is_not_stuck(watch: StallWatch, clock: Clock) -> None:
    assert looks(watch, clock, 5, 100) == frozenset()
    assert not watch.is_worrying


def test_an_engine_that_makes_steps_is_not_stuck(watch: StallWatch, clock: Clock) -> None:
    with watch.running("a", structured=True):
        for steps in range(50):
            assert looks(watch, clock, steps, 9) == frozenset()


def test_the_time_begins_with_the_first_request(watch: StallWatch, clock: Clock) -> None:
    looks(watch, clock, 5, 100)
    with watch.running("a", structured=False):
        assert looks(watch, clock, 5, 9) == frozenset()
        assert watch.is_worrying
        assert looks(watch, clock, 5, 1) == {"a"}


def test_constrained_requests_are_suspected_first(watch: StallWatch, clock: Clock) -> None:
    with ExitStack() as stack:
        for name, structured in (("a", False), ("b", True), ("c", True)):
            stack.enter_context(watch.running(name, structured=structured))
        assert looks(watch, clock, 0, 10) == {"b", "c"}


def test_without_one_of_them_everybody_is(watch: StallWatch, clock: Clock) -> None:
    with watch.running("a", structured=False), watch.running("b", structured=False):
        assert looks(watch, clock, 0, 10) == {"a", "b"}


def test_one_that_left_a_stuck_engine_stays_a_suspect(watch: StallWatch, clock: Clock) -> None:
    looks(watch, clock, 7, 1)
    with watch.running("innocent", structured=False):
        with watch.running("culprit", structured=True):
            looks(watch, clock, 7, 3)
        assert looks(watch, clock, 7, 7) == {"culprit"}


def test_one_that_left_before_the_last_step_is_none(watch: StallWatch, clock: Clock) -> None:
    with watch.running("b", structured=False):
        with watch.running("a", structured=True):
            looks(watch, clock, 7, 3)
        looks(watch, clock, 8, 1)
        assert looks(watch, clock, 8, 10) == {"b"}


def test_a_process_that_stood_still_blames_nobody(watch: StallWatch, clock: Clock) -> None:
    with watch.running("a", structured=False):
        looks(watch, clock, 0, 1)
        clock.now_s += 3600
        assert watch.look(0) == frozenset()
        assert watch.quiet_s <= 1 + LONGEST_LOOK_S
