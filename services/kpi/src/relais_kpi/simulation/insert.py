"""Inserts simulated traces into a database without real ones."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any

from relais_common.insights.mongo import DUPLICATE_KEY, BulkWriteError, Database
from relais_common.insights.store import TRACES
from relais_common.jobs.traces import Trace, trace_document
from relais_kpi.simulation.traffic import recorded_at

WRITTEN_AT_ONCE = 2000
MARK = "simulated"
"""A field that no real trace has."""


class Refused(Exception):
    """Inserting would mix simulated with real traces."""


async def insert_simulated(
    database: Database,
    traces: Iterable[Trace],
    *,
    seed: int,
    force: bool = False,
    progress: Callable[[int], None] = lambda _: None,
) -> int:
    """Write simulated traces in bulk and return their number. Existing ones of the same seed stay unchanged.

    Raises:
        Refused: the database has real traces, and `force` was not given.
    """
    real = await database[TRACES].find_one({MARK: {"$exists": False}}, {"_id": 1})
    if real is not None and not force:
        raise Refused(
            f"the database {database.name!r} has real traces: set MONGODB_DATABASE to another one,"
            " or give --force to mix them"
        )
    written = 0
    documents = _documents(traces, random.Random(seed))
    while part := list(islice(documents, WRITTEN_AT_ONCE)):
        written += await _insert(database, part)
        progress(written)
    return written


async def _insert(database: Database, documents: list[dict[str, Any]]) -> int:
    try:
        await database[TRACES].insert_many(documents, ordered=False)
    except BulkWriteError as error:
        if any(one["code"] != DUPLICATE_KEY for one in error.details["writeErrors"]):
            raise
        inserted: int = error.details["nInserted"]
        return inserted
    return len(documents)


def _documents(traces: Iterable[Trace], chance: random.Random) -> Iterator[dict[str, Any]]:
    for trace in traces:
        yield trace_document(trace, recorded_at=recorded_at(trace, chance)) | {MARK: True}
