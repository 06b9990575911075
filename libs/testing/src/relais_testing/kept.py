"""Reads what orchestrators have written to a test's database."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

from relais_common.insights.mongo import Database, MongoSettings, open_database
from relais_common.jobs.traces import COLLECTION
from relais_testing.waiting import LIVENESS_S, wait_until


class Kept:
    """A database, and an orchestrator's settings for it."""

    def __init__(self, database: Database, settings: dict[str, str]) -> None:
        self.database = database
        self.settings = settings

    async def documents(self) -> list[dict[str, Any]]:
        """Return all trace documents, unordered."""
        return await self.database[COLLECTION].find({}).to_list(None)

    async def ids(self) -> list[str]:
        """Return the ids of all traces, sorted."""
        return sorted(one["_id"] for one in await self.documents())

    async def count(self) -> int:
        """Return the number of traces."""
        return await self.database[COLLECTION].count_documents({})

    async def document(self, channel_id: str) -> dict[str, Any]:
        """Wait for the document of this request."""

        async def there() -> dict[str, Any] | None:
            found: dict[str, Any] | None = await self.database[COLLECTION].find_one(
                {"_id": channel_id}
            )
            return found

        return await wait_until(there) or {}


@asynccontextmanager
async def open_kept(url: str, **settings: str) -> AsyncIterator[Kept]:
    """Yield a fresh database, with settings of short timings; any setting may be given."""
    name = f"test-{uuid4().hex}"
    # The database is slow where the machine is busy: whoever wants it to be given up says so.
    ours = MongoSettings(url=url, database=name, timeout_s=LIVENESS_S)
    async with open_database(ours) as database:
        yield Kept(
            database,
            {
                "MONGODB_URL": url,
                "MONGODB_DATABASE": name,
                "MONGODB_TIMEOUT_S": str(LIVENESS_S),
                "TRACE_WRITE_EVERY_S": "0.05",
                **settings,
            },
        )
