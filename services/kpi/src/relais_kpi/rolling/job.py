"""Runs the job: finds hours with new traces, and recomputes each of them.

Each hour is recomputed from its traces and replaced whole; nothing is added to stored numbers. A run can therefore be
killed anywhere and repeated, run twice, or see a trace twice, and the numbers are the same. A late trace only has its
hour recomputed. The cost of a run grows with the hours that have new traces, not with all hours.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from relais_common.insights.mongo import Database
from relais_common.insights.store import HOURS, ROLLUPS, TRACES
from relais_kpi.rolling.hours import (
    Touched,
    count_traces,
    known_hours,
    read_hour,
    touched_hours,
    write_hour,
)
from relais_kpi.rolling.lock import Lock, hold_lock
from relais_kpi.rolling.retention import Retention, read_retention

OVERLAP = timedelta(minutes=10)
"""How long after its `recorded_at` a trace may become visible, because clocks differ and writes take time."""

Progress = Callable[[int, int, int], None]
"""Called with the hours done, the total of hours, and the traces read."""


@dataclass(slots=True)
class Run:
    """The result of a run.

    Attributes:
        new_traces: traces seen for the first time, or again in the overlap.
        computed, unchanged, frozen: numbers of hours by outcome.
        traces_read: traces of the computed hours.
        rollups_written: documents written.
    """

    new_traces: int = 0
    computed: int = 0
    unchanged: int = 0
    frozen: int = 0
    traces_read: int = 0
    rollups_written: int = 0
    watermark: datetime | None = None


async def roll_up_new(
    database: Database,
    *,
    now: Callable[[], datetime],
    kept: timedelta,
    everything: bool = False,
    progress: Progress = lambda *_: None,
) -> Run:
    """Bring the rollups up to date.

    Args:
        kept: older rollups are deleted.
        everything: consider all traces, and recompute hours that are done.

    Raises:
        LockHeld: another run is active.
        Superseded: another run took over.
    """
    await _make_indexes(database)
    async with hold_lock(database, now) as lock:
        began = now()
        retention = await read_retention(database, began)
        since = None if everything or lock.watermark is None else lock.watermark - OVERLAP
        oldest = began - kept
        touched = [
            one
            for one in await touched_hours(database, since)
            if one.hour + timedelta(hours=1) > oldest
        ]
        run = Run(new_traces=sum(one.traces for one in touched), watermark=lock.watermark)
        if touched:
            known = await known_hours(database, touched[0].hour)
            for done, one in enumerate(touched):
                progress(done, len(touched), run.traces_read)
                await _roll_up_hour(
                    database, one, known.get(one.hour), retention, lock, run, everything
                )
                await lock.renew_if_due()
            progress(len(touched), len(touched), run.traces_read)
            # Never beyond the current time, whatever other clocks say: later traces are for later runs.
            recorded_to = min(began, max(one.recorded_to for one in touched))
            run.watermark = max(recorded_to, lock.watermark or recorded_to)
        await lock.done(watermark=run.watermark, rolled_up_to=began)
        await _delete_before(database, oldest)
    return run


async def _roll_up_hour(
    database: Database,
    touched: Touched,
    known_traces: int | None,
    retention: Retention,
    lock: Lock,
    run: Run,
    everything: bool,
) -> None:
    hour = touched.hour
    if known_traces is not None:
        if retention.is_frozen(hour):
            run.frozen += 1
            return
        # Traces never change, so an equal number means the same traces.
        if not everything and await count_traces(database, hour) == known_traces:
            run.unchanged += 1
            return
    rollups = await read_hour(database, hour, lock)
    traces = sum(rollup.requests for rollup in rollups.values())
    run.traces_read += traces
    if known_traces is not None and traces < known_traces:
        # Some were deleted before their age. History is not rewritten.
        run.frozen += 1
        return
    await write_hour(database, hour, rollups, lock, incomplete=retention.is_incomplete(hour))
    run.computed += 1
    run.rollups_written += len(rollups)


async def _make_indexes(database: Database) -> None:
    """Create the indexes that the job and the report need, unless suitable ones exist."""
    for field, other in (("recorded_at", "finished_at"), ("finished_at", "recorded_at")):
        indexes = await database[TRACES].index_information()
        if not any(one["key"][0][0] == field for one in indexes.values()):
            # With two fields, so that it does not conflict with a TTL index on the first.
            await database[TRACES].create_index([(field, 1), (other, 1)])
    await database[ROLLUPS].create_index([("hour", 1)])
    for collection in (ROLLUPS, HOURS):
        # MongoDB finds the document by `_id` anyway; a less clever server would scan them all.
        await database[collection].create_index([("_id", 1), ("fence", 1)])


async def _delete_before(database: Database, oldest: datetime) -> None:
    await database[ROLLUPS].delete_many({"hour": {"$lt": oldest}})
    await database[HOURS].delete_many({"_id": {"$lt": oldest}})
