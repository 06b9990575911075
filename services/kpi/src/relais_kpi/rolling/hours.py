"""Rolls up one hour: reads its traces and writes its rollups."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from relais_common.insights.mongo import DUPLICATE_KEY, BulkWriteError, Database, ReplaceOne
from relais_common.insights.rollups import HOUR, TRACE_FIELDS, VERSION, Group, Rollup, roll_up
from relais_common.insights.store import HOURS, ROLLUPS, TRACES
from relais_kpi.rolling.lock import Lock, Superseded

READ_AT_ONCE = 2000
WRITTEN_AT_ONCE = 500


@dataclass(frozen=True, slots=True)
class Touched:
    """An hour with recently recorded traces."""

    hour: datetime
    traces: int
    recorded_to: datetime


async def touched_hours(database: Database, since: datetime | None) -> list[Touched]:
    """Return the hours of traces recorded since then, or of all traces, oldest first."""
    found = database[TRACES].aggregate(
        [
            {"$match": {} if since is None else {"recorded_at": {"$gte": since}}},
            {
                "$group": {
                    "_id": {"$dateTrunc": {"date": "$finished_at", "unit": "hour"}},
                    "traces": {"$sum": 1},
                    "recorded_to": {"$max": "$recorded_at"},
                }
            },
        ],
        allowDiskUse=True,
    )
    hours = [
        Touched(one["_id"].astimezone(UTC), one["traces"], one["recorded_to"].astimezone(UTC))
        for one in await found.to_list(None)
    ]
    return sorted(hours, key=lambda one: one.hour)


async def known_hours(database: Database, first: datetime) -> dict[datetime, int]:
    """Return the hours from then on that this version has rolled up, and their numbers of traces."""
    found = database[HOURS].find({"_id": {"$gte": first}, "version": VERSION})
    return {one["_id"].astimezone(UTC): one["traces"] for one in await found.to_list(None)}


async def count_traces(database: Database, hour: datetime) -> int:
    count: int = await database[TRACES].count_documents(_within(hour))
    return count


async def read_hour(database: Database, hour: datetime, lock: Lock) -> dict[Group, Rollup]:
    """Compute an hour's rollups from all its traces, with one batch in memory at a time."""
    rollups: dict[Group, Rollup] = {}
    cursor = database[TRACES].find(
        _within(hour), dict.fromkeys(TRACE_FIELDS, 1), batch_size=READ_AT_ONCE
    )
    while traces := await cursor.to_list(READ_AT_ONCE):
        roll_up(traces, rollups)
        await lock.renew_if_due()
    return rollups


async def write_hour(
    database: Database,
    hour: datetime,
    rollups: dict[Group, Rollup],
    lock: Lock,
    *,
    incomplete: bool,
) -> None:
    """Replace an hour's rollups, then mark the hour as done. Raises Superseded."""
    documents = [rollup.to_document(group) for group, rollup in rollups.items()]
    for part in _parts(documents):
        await _replace(database, ROLLUPS, part, lock)
    done = {
        "_id": hour,
        "traces": sum(rollup.requests for rollup in rollups.values()),
        "rollups": len(rollups),
        "incomplete": incomplete,
        "version": VERSION,
    }
    await _replace(database, HOURS, [done], lock)


async def _replace(
    database: Database, collection: str, documents: Sequence[dict[str, Any]], lock: Lock
) -> None:
    """Replace documents of earlier runs. Those of a later run do not match, and their `_id` blocks the upsert."""
    try:
        await database[collection].bulk_write(
            [
                ReplaceOne(
                    {"_id": one["_id"], "fence": {"$lte": lock.fence}},
                    {**one, "fence": lock.fence},
                    upsert=True,
                )
                for one in documents
            ],
            ordered=False,
        )
    except BulkWriteError as error:
        codes = {one["code"] for one in error.details["writeErrors"]}
        if codes == {DUPLICATE_KEY}:
            raise Superseded("another run has taken over") from None
        raise


def _within(hour: datetime) -> dict[str, Any]:
    return {"finished_at": {"$gte": hour, "$lt": hour + HOUR}}


def _parts(documents: Sequence[dict[str, Any]]) -> Iterator[Sequence[dict[str, Any]]]:
    for start in range(0, len(documents), WRITTEN_AT_ONCE):
        yield documents[start : start + WRITTEN_AT_ONCE]
