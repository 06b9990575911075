"""Decides which hours can still be recomputed: those whose traces all still exist."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from relais_common.insights.mongo import Database
from relais_common.insights.store import TRACES

MARGIN = timedelta(hours=2)
"""Margin before the first trace of an hour may expire, for differing clocks and the duration of a run."""


@dataclass(frozen=True, slots=True)
class Retention:
    """Ends of hours by age of their traces. None means that traces are kept for ever."""

    frozen_before: datetime | None
    incomplete_before: datetime | None

    def is_frozen(self, hour: datetime) -> bool:
        """Return whether the hour's traces have begun to expire, or soon will: its rollups then stay."""
        return self.frozen_before is not None and hour < self.frozen_before

    def is_incomplete(self, hour: datetime) -> bool:
        """Return whether some of the hour's traces may have expired already."""
        return self.incomplete_before is not None and hour < self.incomplete_before


async def read_retention(database: Database, now: datetime) -> Retention:
    """Read the retention from the TTL index of the traces, whoever created it."""
    indexes = await database[TRACES].index_information()
    kept_s = [one["expireAfterSeconds"] for one in indexes.values() if "expireAfterSeconds" in one]
    if not kept_s:
        return Retention(None, None)
    kept = timedelta(seconds=min(kept_s))
    expired = now - kept
    return Retention(expired + min(MARGIN, kept / 10), expired)
