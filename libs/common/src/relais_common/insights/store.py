"""The KPI collections in MongoDB, and how they are read."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from datetime import UTC, datetime

from relais_common.insights.batches import read_batches
from relais_common.insights.mongo import Database
from relais_common.insights.objectives import Objectives
from relais_common.insights.periods import Period
from relais_common.insights.report import Axis, Fold, Report, build_report
from relais_common.insights.rollups import Group, Rollup

TRACES = "traces"
"""One document per request, defined in `relais_common.jobs.traces`."""

ROLLUPS = "kpi_rollups"
"""One document per hour, model, key, operation and priority, defined in `relais_common.insights.rollups`."""

HOURS = "kpi_hours"
"""One document per hour that has been rolled up: `_id` its start, `traces` how many there were."""

STATE = "kpi_state"
"""The document `rollup`: the holder of the lock, and how far the traces have been processed."""

_READ_AT_ONCE = 500
_ADDED_AT_ONCE = 20
"""Rollups added in one go, about two milliseconds of work."""


async def read_rollups(
    database: Database, since: datetime, until: datetime
) -> AsyncIterator[tuple[Group, Rollup]]:
    """Yield the rollups of hours from `since` (inclusive) to `until` (exclusive), in no particular order."""
    cursor = database[ROLLUPS].find(
        {"hour": {"$gte": since, "$lt": until}}, batch_size=_READ_AT_ONCE
    )
    while documents := await cursor.to_list(_READ_AT_ONCE):
        for document in documents:
            group = Group(
                document["hour"].astimezone(UTC),
                document["model"],
                document["key_id"],
                document["operation"],
                document["priority"],
            )
            yield group, Rollup.from_document(document)


async def read_fold(database: Database, period: Period, axes: Iterable[Axis] = ()) -> Fold:
    """Add up the rollups of a period, yielding to the event loop from time to time."""
    fold = Fold(axes)
    added = 0
    async for group, rollup in read_rollups(database, period.since, period.until):
        fold.add(group, rollup)
        added += 1
        if added % _ADDED_AT_ONCE == 0:
            await asyncio.sleep(0)
    return fold


async def read_report(
    database: Database, period: Period, *, by: Axis, objectives: Objectives
) -> Report:
    """Return the figures of a period and of the previous one."""
    fold = await read_fold(database, period, (by,))
    previous = await read_fold(database, period.previous)
    return await asyncio.to_thread(
        build_report,
        fold,
        previous,
        period=period,
        by=by,
        objectives=objectives,
        rolled_up_to=await rolled_up_to(database),
        ended=await read_batches(database, period),
    )


async def rolled_up_to(database: Database) -> datetime | None:
    """Return the time up to which recorded traces are in the rollups; None before the first run."""
    state = await database[STATE].find_one({"_id": "rollup"})
    moment: datetime | None = None if state is None else state.get("rolled_up_to")
    return None if moment is None else moment.astimezone(UTC)
