"""The capacity benchmark's model: queues behave as theory says, and what is fitted, simulated and planned agrees."""

from __future__ import annotations

import random
from collections.abc import Mapping
from functools import partial

import pytest

from benchmarks.planning import report
from benchmarks.planning.costs import PACED, UNPACED, Costs, fit
from benchmarks.planning.loads import (
    CLIENTS,
    MONGODB,
    ORCHESTRATORS,
    REDIS,
    WORKERS,
    Fleet,
    Load,
)
from benchmarks.planning.plan import FULL, MOST_PER_WORKER, Demand, plan, slot
from benchmarks.planning.simulation import Clock, Loop, Machine, simulate

ENGINE: Mapping[str, float] = {PACED: 8.0, UNPACED: 5.0}
COSTS = Costs(
    {
        ORCHESTRATORS: {
            "request": 900, "prompt_kb": 5, "trace": 100, "turn": 60, "entry": 20, "token": 4,
            "stream_s": 13, "process_s": 4000,
        },
        WORKERS: {
            "request": 600, "prompt_kb": 20, "turn": 100, "call": 150, "entry": 10, "token": 5,
            "stream_s": 10, "process_s": 3000, **ENGINE,
        },
        REDIS: {
            "request": 400, "prompt_kb": 2, "trace": 40, "turn": 40, "call": 30, "entry": 9,
            "token": 1.5, "stream_s": 25, "process_s": 200,
        },
        CLIENTS: {"request": 150, "prompt_kb": 1, "turn": 20, "entry": 8, "token": 1},
        MONGODB: {"trace": 500},
    }
)  # fmt: skip
OWN_CORES = Machine(cores=1000, sync_s=0.0005, hop_s=0.0001, at_once_per_s=4000)


@pytest.mark.parametrize("share", [0.3, 0.6, 0.8])
def test_what_waits_for_a_core_waits_as_long_as_in_an_m_d_1_queue(share: float) -> None:
    clock, random_ = Clock(cores=1), random.Random(1)
    service_s, count = 0.001, 30_000
    sojourns_s: list[float] = []

    def arrive() -> None:
        loop, came_s = Loop(clock), clock.now_s
        loop.put(lambda: service_s * 1e6)
        loop.after(lambda: sojourns_s.append(clock.now_s - came_s))

    at_s = 0.0
    for _ in range(count):
        at_s += random_.expovariate(share / service_s)
        clock.at(at_s, arrive)
    clock.run(lambda: len(sojourns_s) == count)
    wait_s = sum(sojourns_s) / count - service_s
    assert wait_s == pytest.approx(share * service_s / 2 / (1 - share), rel=0.1)


def test_a_loop_serves_what_has_come_in_one_turn_and_holds_a_core_for_its_cost() -> None:
    clock = Clock(cores=1)
    loop = Loop(clock, sync_s=0.01)
    ended_s: list[float] = []

    def item() -> float:
        loop.after(lambda: ended_s.append(clock.now_s))
        return 2000.0

    for at_s in (0.0, 0.001, 0.0015):
        clock.at(at_s, partial(loop.put, item))
    clock.run(lambda: len(ended_s) == 3)
    # The first alone, then its sync; the others together after it.
    assert ended_s == pytest.approx([0.012, 0.026, 0.026])
    assert loop.busy_s == pytest.approx(0.006)


def test_a_loop_that_makes_its_own_work_does_not_begin_anew() -> None:
    clock = Clock(cores=1)
    loop = Loop(clock, turn_us=500)

    def item() -> float:
        loop.after(lambda: loop.put(item))
        return 1000.0

    loop.put(item)
    clock.run(lambda: clock.now_s >= 0.01)
    assert loop.turns == 1
    assert loop.busy_s == pytest.approx(0.0105, abs=0.0011)


def test_one_core_is_never_used_twice() -> None:
    found = simulate(
        Fleet(2, 2),
        Load(64, 1, 100, 100.0),
        COSTS,
        Machine(cores=1, sync_s=0, hop_s=0, at_once_per_s=1600),
    )
    # An item that is begun when the last token comes may end later.
    assert sum(found.run.cpu_s.values()) <= found.run.counts.elapsed_s * 1.01
    assert found.run.tokens_per_s < 64 * 100


@pytest.mark.parametrize("fleet", [Fleet(1, 1), Fleet(2, 4), Fleet(4, 1, traces=True)])
@pytest.mark.parametrize("load", [Load(16, 3, 20, 50.0), Load(16, 2, 200), Load(8, 5, 1)])
def test_every_token_arrives_and_the_cpu_is_what_the_steps_cost(fleet: Fleet, load: Load) -> None:
    run = simulate(fleet, load, COSTS, OWN_CORES).run
    assert run.counts.tokens == load.streams * load.requests * load.tokens
    for part in (ORCHESTRATORS, WORKERS, REDIS):
        assert run.cpu_s[part] == pytest.approx(COSTS.cpu_s(part, run), rel=0.1), part


def test_tokens_leave_at_once_while_few_come_and_fifty_times_a_second_above() -> None:
    few = simulate(Fleet(1, 1), Load(4, 1, 100, 50.0), COSTS, OWN_CORES, steady=True).run.counts
    many = simulate(Fleet(1, 1), Load(200, 1, 100, 50.0), COSTS, OWN_CORES).run.counts
    assert few.entries > 0.9 * few.tokens
    assert many.calls / many.elapsed_s < 55


def test_more_load_keeps_every_part_busier_and_tokens_later() -> None:
    found = [
        simulate(Fleet(2, workers), Load(64 * workers, 1, 40, 30.0), COSTS, OWN_CORES, steady=True)
        for workers in (1, 4, 12)
    ]
    for part in (ORCHESTRATORS, REDIS):
        busy = [one.busy[part] for one in found]
        assert busy == sorted(busy)
        assert busy[-1] <= 1
    means = [sum(one.late_s) / len(one.late_s) for one in found]
    assert means == sorted(means)


def test_costs_are_found_again_in_the_runs_that_they_made() -> None:
    loads = [
        *(Load(8, 1, 100, 40.0), Load(64, 1, 100, 40.0), Load(200, 1, 60, 40.0), Load(32, 1, 2000)),
        *(Load(16, 20, 1), Load(16, 10, 8), Load(16, 5, 1, prompt=20_000), Load(200, 1, 3, 0.25)),
    ]
    runs = [
        simulate(fleet, load, COSTS, OWN_CORES).run
        for fleet in (Fleet(1, 1), Fleet(4, 8))
        for load in loads
    ]
    found = fit(runs, ENGINE)
    for run in (simulate(Fleet(2, 4), load, COSTS, OWN_CORES).run for load in loads):
        for part in (ORCHESTRATORS, WORKERS, REDIS, CLIENTS):
            assert found.cpu_s(part, run) == pytest.approx(run.cpu_s[part], rel=0.1), part


def test_costs_of_a_part_that_never_ran_are_nothing() -> None:
    runs = [simulate(Fleet(1, 1), Load(8, 1, 20, 40.0), COSTS, OWN_CORES).run]
    assert fit(runs, ENGINE).of(MONGODB, "trace") == 0


def test_a_plan_grows_with_the_load_and_keeps_each_process_below_its_bound() -> None:
    plans = [plan(Demand(streams, 100), COSTS, OWN_CORES) for streams in (1_000, 10_000, 50_000)]
    for part in (ORCHESTRATORS, WORKERS, REDIS, MONGODB):
        cores = [one.cores[part] for one in plans]
        assert cores == sorted(cores), part
        assert all(one.cores[part] <= FULL * one.needed[part] for one in plans)
    part, streams = plans[-1].first
    assert part == ORCHESTRATORS
    assert streams < 1_000


def test_workers_saturate_first_where_their_engines_have_no_place() -> None:
    found = plan(Demand(2_000, 1), COSTS, OWN_CORES)
    part, streams = found.first
    assert part == WORKERS
    assert streams == MOST_PER_WORKER
    assert found.needed[WORKERS] >= 4
    assert "1 (too few" in report.plans_table([found])


def test_one_slot_fills_as_workers_are_added() -> None:
    found = slot(Demand(64, 1), (1, 8), COSTS, OWN_CORES)
    assert [one.demand.streams for one in found] == [64, 512]
    assert found[0].cores[REDIS] < found[1].cores[REDIS]


def test_a_prediction_that_is_far_off_is_marked() -> None:
    found = simulate(Fleet(1, 1), Load(8, 1, 20, 40.0), COSTS, OWN_CORES)
    twice = Costs(
        {part: {step: 2 * us for step, us in of.items()} for part, of in COSTS.us.items()}
    )
    other = simulate(Fleet(1, 1), Load(8, 1, 20, 40.0), twice, OWN_CORES)
    assert report.near([found.run], [found]) == (4, 4)
    assert "**" not in report.checks_table([found.run], [found])
    assert report.near([found.run], [other])[0] <= 1
    assert "**" in report.checks_table([found.run], [other])
    assert report.near_by_counts([found.run], COSTS) == (3, 3)
    assert report.near_by_counts([found.run], twice) == (0, 3)
