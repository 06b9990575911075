"""Batches that ended in a period, from the documents that orchestrators keep of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from relais_common.insights.mongo import DESCENDING, Database
from relais_common.insights.periods import Period

BATCHES = "batches"
"""One document per batch, kept for 30 days after its end; `relais_orchestrator.batches.store` writes it."""

MAX_BATCHES = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchFigures:
    """One batch.

    Attributes:
        status: `completed`, `failed`, `expired` or `cancelled`.
        requests: lines; completed and failed ones, which include those that did not run.
        input_tokens, output_tokens: of completed requests.
        duration_s: from its creation to its end.
    """

    batch_id: str
    key_id: str
    model: str | None
    endpoint: str
    status: str
    requests: int
    completed: int
    failed: int
    input_tokens: int
    output_tokens: int
    ended_at: datetime
    duration_s: float


@dataclass(frozen=True, slots=True)
class EndedBatches:
    """The largest batches of a period, and how many others there are."""

    batches: tuple[BatchFigures, ...] = ()
    left_out: int = 0


async def read_batches(database: Database, period: Period) -> EndedBatches:
    """Return the batches that ended in the period, those with the most requests first."""
    ended = {"ended_at": {"$gte": period.since, "$lt": period.until}}
    order = [("counts.total", DESCENDING), ("_id", DESCENDING)]
    found = await database[BATCHES].find(ended).sort(order).limit(MAX_BATCHES).to_list(None)
    count = await database[BATCHES].count_documents(ended)
    return EndedBatches(tuple(map(_figures, found)), max(0, count - len(found)))


def _figures(batch: Mapping[str, Any]) -> BatchFigures:
    counts = batch["counts"]
    given, _, made, _ = batch.get("usage") or (0, 0, 0, 0)
    return BatchFigures(
        batch_id=batch["_id"],
        key_id=batch["key_id"],
        model=batch.get("model"),
        endpoint=batch["endpoint"],
        status=batch["status"],
        requests=counts["total"],
        completed=counts["completed"],
        failed=counts["failed"],
        input_tokens=given,
        output_tokens=made,
        ended_at=batch["ended_at"].astimezone(UTC),
        duration_s=(batch["ended_at"] - batch["created_at"]).total_seconds(),
    )
