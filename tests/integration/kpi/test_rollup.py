"""The rollup job on a server: whatever happens to a run, the numbers are those of the traces."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from random import Random
from typing import Any

import pytest

from relais_common.insights.mongo import Database
from relais_common.insights.rollups import HOUR, Group, Rollup, roll_up
from relais_common.insights.store import HOURS, ROLLUPS, TRACES, rolled_up_to
from relais_common.jobs.traces import trace_document
from relais_kpi.rolling import hours, job
from relais_kpi.rolling.job import Run, roll_up_new
from relais_kpi.rolling.lock import LASTS, LockHeld, Superseded, hold_lock
from relais_kpi.simulation.insert import Refused, insert_simulated
from relais_kpi.simulation.traffic import simulate
from relais_testing.traces import HOUR_0, make_document

NOW = HOUR_0 + timedelta(days=10)
KEPT = timedelta(days=730)


async def run(
    database: Database, *, now: datetime = NOW, kept: timedelta = KEPT, everything: bool = False
) -> Run:
    return await roll_up_new(database, now=lambda: now, kept=kept, everything=everything)


async def stored(database: Database) -> dict[str, dict[str, Any]]:
    """All rollups, by id; without the number of the run that wrote them."""
    documents = await database[ROLLUPS].find().to_list(None)
    return {one["_id"]: {k: v for k, v in one.items() if k != "fence"} for one in documents}


def expected(traces: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """What rollups of these traces are, with no database in between."""
    rollups: dict[Group, Rollup] = {}
    roll_up(traces, rollups)
    return {group.id: rollup.to_document(group) for group, rollup in rollups.items()}


async def traces_of(database: Database) -> list[dict[str, Any]]:
    traces: list[dict[str, Any]] = await database[TRACES].find().to_list(None)
    return traces


async def put(database: Database, *documents: dict[str, Any]) -> None:
    await database[TRACES].insert_many(list(documents))


async def fill(database: Database, traces: int = 600) -> None:
    made = simulate(traces=traces, days=2, seed=1, until=NOW)
    await insert_simulated(database, made, seed=1)


async def test_rollups_are_those_of_the_traces(database: Database) -> None:
    await fill(database)

    done = await run(database)

    traces = await traces_of(database)
    assert await stored(database) == expected(traces)
    assert done.traces_read == len(traces) == 600
    assert done.watermark == max(one["recorded_at"] for one in traces)
    assert await rolled_up_to(database) == NOW


async def test_another_run_changes_nothing_and_reads_no_trace(database: Database) -> None:
    await fill(database)
    await run(database)
    before = await database[ROLLUPS].find().to_list(None)

    done = await run(database)

    assert (done.computed, done.traces_read) == (0, 0)
    assert await database[ROLLUPS].find().to_list(None) == before


async def test_new_traces_cost_their_own_hours_only(database: Database) -> None:
    await fill(database)
    await run(database)
    late = NOW + 5 * HOUR
    await put(database, make_document(1, finished_at=late), make_document(2, finished_at=late))

    done = await run(database, now=late + HOUR)

    assert done.computed == 1
    assert done.traces_read == 2
    assert await stored(database) == expected(await traces_of(database))


async def test_a_straggler_has_its_hour_computed_again(database: Database) -> None:
    await put(database, *(make_document(number) for number in range(3)))
    await put(database, make_document(3, finished_at=HOUR_0 + 2 * HOUR))
    await run(database)
    # Seen after the others, though its writer's clock says that it was before.
    seen_late = HOUR_0 + 2 * HOUR - job.OVERLAP / 2
    await put(database, make_document(4, recorded_at=seen_late))

    await run(database)

    assert await stored(database) == expected(await traces_of(database))


async def test_a_clock_far_ahead_hides_no_later_trace(database: Database) -> None:
    await put(database, make_document(1, recorded_at=NOW + timedelta(days=365)))
    await run(database)
    await put(database, make_document(2, recorded_at=NOW + timedelta(minutes=1)))

    await run(database, now=NOW + timedelta(minutes=2))

    assert await stored(database) == expected(await traces_of(database))


class Killed(BaseException):
    """As SIGKILL: nothing of the run's own code comes after it but `finally`, which has no database any more."""


async def killed_run(
    database: Database, monkeypatch: pytest.MonkeyPatch, after_calls: int, now: datetime
) -> bool:
    """A run that dies at its nth write or read; false where it came to its end before."""
    calls = 0

    def dying(name: str) -> Any:
        real = getattr(hours, name)

        async def call(*arguments: Any, **named: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls > after_calls:
                raise Killed
            return await real(*arguments, **named)

        return call

    async def no_release(_: object) -> None:
        pass

    with monkeypatch.context() as patched:
        patched.setattr("relais_kpi.rolling.hours._replace", dying("_replace"))
        patched.setattr("relais_kpi.rolling.job.count_traces", dying("count_traces"))
        patched.setattr("relais_kpi.rolling.job.read_hour", dying("read_hour"))
        patched.setattr("relais_kpi.rolling.lock.Lock.release", no_release)
        # Many small writes, so that it dies between those of one hour too.
        patched.setattr("relais_kpi.rolling.hours.WRITTEN_AT_ONCE", 2)
        try:
            await run(database, now=now)
        except Killed:
            return True
    return False


async def test_a_run_killed_at_any_point_and_made_again_gives_the_same_numbers(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    random = Random(7)
    deaths = 0
    for seed in range(4):
        # Half of its hours have been rolled up before.
        now = NOW + seed * 24 * HOUR
        made = simulate(traces=150, days=2, seed=seed, until=now)
        await put(database, *(trace_document(one, recorded_at=now) for one in made))
        # Each from what the one before left.
        for _ in range(3):
            deaths += await killed_run(database, monkeypatch, random.randrange(120), now)
            now += LASTS
        await run(database, now=now)
        assert await stored(database) == expected(await traces_of(database))
    assert deaths > 3


async def test_of_two_runs_at_once_one_says_that_the_other_is_at_work(database: Database) -> None:
    await fill(database)

    ended = await asyncio.gather(run(database), run(database), return_exceptions=True)

    assert sorted(type(one).__name__ for one in ended) == ["LockHeld", "Run"]
    assert await stored(database) == expected(await traces_of(database))


async def test_after_a_dead_run_the_lock_ends_by_itself(database: Database) -> None:
    await fill(database)
    async with hold_lock(database, lambda: NOW):
        with pytest.raises(LockHeld, match="until"):
            await run(database, now=NOW + LASTS / 2)

        assert (await run(database, now=NOW + LASTS)).computed > 0


async def test_a_run_that_is_stopped_at_any_moment_leaves_no_lock(database: Database) -> None:
    async def hold() -> None:
        async with hold_lock(database, lambda: NOW):
            await asyncio.Event().wait()

    for steps in range(12):
        holding = asyncio.create_task(hold())
        for _ in range(steps):
            await asyncio.sleep(0.0005)
        holding.cancel()
        await asyncio.wait([holding])
        assert holding.cancelled(), holding.exception()


async def test_a_run_that_was_frozen_past_its_lock_undoes_nothing(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    await put(database, make_document(1))
    read_hour = hours.read_hour

    async def overtaken(*arguments: Any) -> Any:
        """It has read the hour; then it sleeps while more comes in and another run does all the work."""
        seen = await read_hour(*arguments)
        with monkeypatch.context() as other:
            other.setattr("relais_kpi.rolling.job.read_hour", read_hour)
            await put(database, make_document(2))
            await run(database, now=NOW + 2 * LASTS)
        return seen

    monkeypatch.setattr("relais_kpi.rolling.job.read_hour", overtaken)
    with pytest.raises(Superseded):
        await run(database)
    monkeypatch.undo()

    assert await stored(database) == expected(await traces_of(database))
    await put(database, make_document(3, recorded_at=NOW + 2 * LASTS))
    await run(database, now=NOW + 4 * LASTS)
    assert await stored(database) == expected(await traces_of(database))


async def test_expired_traces_take_nothing_out_of_the_rollups(database: Database) -> None:
    kept = timedelta(days=30)
    await database[TRACES].create_index("finished_at", expireAfterSeconds=kept.total_seconds())
    await put(database, *(make_document(number) for number in range(3)))
    await run(database, now=HOUR_0 + HOUR)
    before = await stored(database)
    # Two expire; then one comes that is as old, and was recorded only now.
    await database[TRACES].delete_many({"_id": {"$in": ["m.0", "m.1"]}})
    late = HOUR_0 + kept
    await put(database, *(make_document(n, recorded_at=late) for n in range(10, 20)))

    done = await run(database, now=late)

    assert done.frozen == 1
    assert await stored(database) == before
    assert (await run(database, now=late, everything=True)).frozen == 1
    assert await stored(database) == before


async def test_without_a_retention_fewer_traces_are_no_reason_to_forget(
    database: Database,
) -> None:
    await put(database, *(make_document(number) for number in range(3)))
    await run(database)
    before = await stored(database)
    await database[TRACES].delete_many({"_id": "m.0"})

    done = await run(database, everything=True)

    assert done.frozen == 1
    assert await stored(database) == before


async def test_an_hour_that_was_never_rolled_up_is_computed_of_what_is_left(
    database: Database,
) -> None:
    kept = timedelta(days=30)
    await database[TRACES].create_index("finished_at", expireAfterSeconds=kept.total_seconds())
    await put(database, make_document(1))

    await run(database, now=HOUR_0 + kept + HOUR / 2)

    assert await stored(database) == expected(await traces_of(database))
    [hour] = await database[HOURS].find().to_list(None)
    assert hour["incomplete"] is True


async def test_rollups_are_deleted_when_they_are_old(database: Database) -> None:
    await put(database, make_document(1), make_document(2, finished_at=HOUR_0 + 9 * 24 * HOUR))
    await run(database)

    await run(database, kept=timedelta(days=5))
    # The trace is still there; its hour stays away.
    await run(database, kept=timedelta(days=5), everything=True)

    assert [one["hour"] for one in (await stored(database)).values()] == [HOUR_0 + 9 * 24 * HOUR]
    assert await database[HOURS].count_documents({}) == 1


async def test_simulated_traces_are_not_mixed_with_real_ones(database: Database) -> None:
    await fill(database, traces=50)
    made = list(simulate(traces=50, days=2, seed=1, until=NOW))
    assert await insert_simulated(database, made, seed=1) == 0, "they are there already"
    await put(database, make_document(1))

    with pytest.raises(Refused, match="real traces"):
        await insert_simulated(database, made, seed=1)
    assert await insert_simulated(database, made, seed=1, force=True) == 0
