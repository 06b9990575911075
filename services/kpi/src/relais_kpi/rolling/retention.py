"""Which hours may still be computed anew: those whose traces are all still there."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from relais_common.insights.mongo import Database
from relais_common.insights.store import TRACES

MARGIN = timedelta(hours=2)
"""Before the first trace of an hour may expire: for clocks that differ, and for the time that a run takes."""


@dataclass(frozen=True, slots=True)
class Retention:
    """Ends of hours by age. None: traces are kept for ever."""

    frozen_before: datetime | None
    incomplete_before: datetime | None

    def is_frozen(self, hour: datetime) -> bool:
        """Its traces have begun to expire, or soon will: what was computed of it stays."""
        return self.frozen_before is not None and hour < self.frozen_before

    def is_incomplete(self, hour: datetime) -> bool:
        """Some of its traces may have expired already."""
        return self.incomplete_before is not None and hour < self.incomplete_before


async def read_retention(database: Database, now: datetime) -> Retention:
    """As the TTL index of the traces has it, whoever made that."""
    indexes = await database[TRACES].index_information()
    kept_s = [one["expireAfterSeconds"] for one in indexes.values() if "expireAfterSeconds" in one]
    if not kept_s:
        return Retention(None, None)
    kept = timedelta(seconds=min(kept_s))
    expired = now - kept
    return Retention(expired + min(MARGIN, kept / 10), expired)
