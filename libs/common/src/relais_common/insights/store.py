"""The collections of the key figures, and how they are read."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from datetime import UTC, datetime

from relais_common.insights.mongo import Database
from relais_common.insights.objectives import Objectives
from relais_common.insights.periods import Period
from relais_common.insights.report import Axis, Fold, Report, build_report
from relais_common.insights.rollups import Group, Rollup

TRACES = "traces"
"""One document per request; `relais_common.jobs.traces` says what is in it."""

ROLLUPS = "kpi_rollups"
"""One document per hour, model, key, operation and priority; `relais_common.insights.rollups` says what is in it."""

HOURS = "kpi_hours"
"""One document per hour that has been rolled up: `_id` its start, `traces` how many there were."""

STATE = "kpi_state"
"""The document `rollup`: who holds the lock, and how far the traces have been looked at."""

_READ_AT_ONCE = 500
_ADDED_AT_ONCE = 20
"""Takes some two milliseconds."""


async def read_rollups(
    database: Database, since: datetime, until: datetime
) -> AsyncIterator[tuple[Group, Rollup]]:
    """Those of the hours from `since`, included, to `until`, left out; in no order."""
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
    """The rollups of a period, added up; whoever shares the event loop has a turn now and then."""
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
    """The figures of a period, beside those of the one before."""
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
    )


async def rolled_up_to(database: Database) -> datetime | None:
    """What was recorded until then is in the rollups; None before the first run."""
    state = await database[STATE].find_one({"_id": "rollup"})
    moment: datetime | None = None if state is None else state.get("rolled_up_to")
    return None if moment is None else moment.astimezone(UTC)
