"""A run: which hours have new traces, and each of them computed anew.

An hour is replaced whole, by what its traces say; nothing is ever added to a stored number. So a run can be killed
anywhere and made again, run twice, or meet a trace again, and the numbers are the same. A trace that comes late only
has its hour computed once more. What a run costs grows with the hours that have new traces, not with all there are.
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
"""A trace may be seen so long after the `recorded_at` that it bears: clocks differ, and writes take time."""

Progress = Callable[[int, int, int], None]
"""Called with hours done, hours in all, traces read."""


@dataclass(slots=True)
class Run:
    """What a run did.

    Attributes:
        new_traces: traces looked at for the first time, or again in the overlap.
        computed, unchanged, frozen: hours, by what was done with them.
        traces_read: those of the computed hours.
        rollups_written: documents.
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
        everything: look at all traces, and compute also hours that seem to be done.

    Raises:
        LockHeld: another run is at work.
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
            # Not past this moment, whatever a clock elsewhere says: what is recorded later is looked at later.
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
        # Traces come and do not change: as many as before are the same.
        if not everything and await count_traces(database, hour) == known_traces:
            run.unchanged += 1
            return
    rollups = await read_hour(database, hour, lock)
    traces = sum(rollup.requests for rollup in rollups.values())
    run.traces_read += traces
    if known_traces is not None and traces < known_traces:
        # Some are gone, by another way than age. History is not rewritten.
        run.frozen += 1
        return
    await write_hour(database, hour, rollups, lock, incomplete=retention.is_incomplete(hour))
    run.computed += 1
    run.rollups_written += len(rollups)


async def _make_indexes(database: Database) -> None:
    """Those that the job and the report need, where nobody else has made one that serves."""
    for field, other in (("recorded_at", "finished_at"), ("finished_at", "recorded_at")):
        indexes = await database[TRACES].index_information()
        if not any(one["key"][0][0] == field for one in indexes.values()):
            # Of two fields, so that it stands in the way of no TTL index on the first.
            await database[TRACES].create_index([(field, 1), (other, 1)])
    await database[ROLLUPS].create_index([("hour", 1)])
    for collection in (ROLLUPS, HOURS):
        # MongoDB finds the one document by `_id` anyway; a server that is less clever would look through all of them.
        await database[collection].create_index([("_id", 1), ("fence", 1)])


async def _delete_before(database: Database, oldest: datetime) -> None:
    await database[ROLLUPS].delete_many({"hour": {"$lt": oldest}})
    await database[HOURS].delete_many({"_id": {"$lt": oldest}})
