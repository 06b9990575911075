"""Batches and the results of their lines, in MongoDB.

A change of a batch names the holder that it expects, and a result is inserted once. Two orchestrators that both believe
they hold a batch therefore do no harm.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from relais_common.insights.batches import BATCHES
from relais_common.insights.mongo import (
    ASCENDING,
    DESCENDING,
    DUPLICATE_KEY,
    BulkWriteError,
    Database,
)
from relais_common.jobs.channels import BATCH_PREFIX, BATCH_RANDOM_BYTES
from relais_common.jobs.errors import BatchEnded, BatchNotFound, TooManyBatches
from relais_orchestrator.batches.settings import BatchSettings
from relais_orchestrator.files.store import database_errors

RESULTS = "batch_results"
ACTIVE = ("validating", "in_progress", "finalizing", "cancelling")
RETENTION = timedelta(days=30)
"""How long a batch is kept after its end."""

RESULTS_KEPT = timedelta(days=2)
"""How long results are kept after the completion window, if nobody could delete them."""

RESULTS_AT_ONCE = 200
CURSOR_S = 0.5
_CANCELLED_AT_REST = {"status": "cancelling", "lease.holder": ""}

Document = dict[str, Any]


Usage = tuple[int, int, int, int]
"""Tokens: input, cached ones among them, output, reasoning among them."""


@dataclass(frozen=True, slots=True)
class LineResult:
    """How a line ended.

    Attributes:
        ok: whether it goes to the output file; else to the error file.
        text: its line there.
    """

    line: int
    ok: bool
    text: bytes
    usage: Usage = (0, 0, 0, 0)


class BatchStore:
    """The batches of all keys. Every method raises FilesUnavailable while MongoDB does not answer.

    Attributes:
        created: set when this orchestrator has created a batch.
    """

    def __init__(self, database: Database, settings: BatchSettings) -> None:
        self._batches = database[BATCHES]
        self._results = database[RESULTS]
        self._settings = settings
        self._prepared = False
        self.created = asyncio.Event()

    async def create(
        self, *, key_id: str, window: timedelta, fields: Mapping[str, Any]
    ) -> Document:
        """Store a new batch. Raises TooManyBatches."""
        now = datetime.now(UTC)
        batch: Document = {
            "_id": BATCH_PREFIX + secrets.token_urlsafe(BATCH_RANDOM_BYTES),
            "key_id": key_id,
            "status": "validating",
            "created_at": now,
            "expires_at": now + window,
            "delete_at": now + window + RETENTION,
            "counts": {"total": 0, "completed": 0, "failed": 0},
            "lease": {"holder": "", "until": now.timestamp()},
            **fields,
        }
        with database_errors():
            await self._prepare()
            active = {"key_id": key_id, "status": {"$in": ACTIVE}}
            if await self._batches.count_documents(active) >= self._settings.max_per_key:
                raise TooManyBatches(
                    f"this key has {self._settings.max_per_key} batches that have not ended"
                )
            await self._batches.insert_one(batch)
        self.created.set()
        return batch

    async def find(self, batch_id: str, *, key_id: str) -> Document:
        """Return a batch of this key. Raises BatchNotFound."""
        with database_errors():
            found = await self._batches.find_one({"_id": batch_id, "key_id": key_id})
        if found is None:
            raise BatchNotFound("there is no such batch", param="batch_id")
        return found

    async def page(
        self, *, key_id: str, after: str | None, limit: int
    ) -> tuple[list[Document], bool]:
        """Return a key's batches, the newest first, and whether more follow. Raises BatchNotFound."""
        wanted: Document = {"key_id": key_id}
        if after is not None:
            last = await self.find(after, key_id=key_id)
            wanted["$or"] = [
                {"created_at": {"$lt": last["created_at"]}},
                {"created_at": last["created_at"], "_id": {"$lt": after}},
            ]
        order = [("created_at", DESCENDING), ("_id", DESCENDING)]
        with database_errors():
            found = await self._batches.find(wanted).sort(order).limit(limit + 1).to_list(None)
        return found[:limit], len(found) > limit

    async def open(self, *, limit: int) -> list[Document]:
        """Return the batches of all keys that have not ended, the oldest first."""
        with database_errors():
            found = self._batches.find({"status": {"$in": ACTIVE}})
            return await found.sort("created_at", ASCENDING).limit(limit).to_list(None)

    async def positions(self, batches: Iterable[Document]) -> dict[str, int]:
        """Return, of those among these that have not ended, how many older ones of the same model have not either."""
        models = {one["model"] for one in batches if one["status"] in ACTIVE and "model" in one}
        if not models:
            return {}
        wanted = {"status": {"$in": ACTIVE}, "model": {"$in": list(models)}}
        with database_errors():
            found = self._batches.find(wanted, {"model": 1}).sort("created_at", ASCENDING)
            ahead = dict.fromkeys(models, -1)
            positions: dict[str, int] = {}
            async for one in found:
                ahead[one["model"]] += 1
                positions[one["_id"]] = ahead[one["model"]]
        return positions

    async def cancel(self, batch_id: str, *, key_id: str) -> Document:
        """Ask for a batch's end; again, if somebody has. Raises BatchNotFound, BatchEnded."""
        with database_errors():
            changed: Document | None = await self._batches.find_one_and_update(
                {
                    "_id": batch_id,
                    "key_id": key_id,
                    "status": {"$in": ["validating", "in_progress"]},
                },
                {"$set": {"status": "cancelling", "cancelling_at": datetime.now(UTC)}},
                return_document=True,
            )
        if changed is not None:
            return changed
        batch = await self.find(batch_id, key_id=key_id)
        if batch["status"] != "cancelling":
            raise BatchEnded(f"a batch with status {batch['status']} cannot be cancelled")
        return batch

    async def input_files(self) -> list[str]:
        """Return the files that batches which have not ended read."""
        with database_errors():
            found = await self._batches.find(
                {"status": {"$in": ACTIVE}}, {"input_file_id": 1}
            ).to_list(None)
        return [one["input_file_id"] for one in found]

    async def claim(self, holder: str, endpoints: Collection[str]) -> Document | None:
        """Take the batch that nobody has held for longest; None if there is none.

        A batch for an endpoint not among these is left to a newer orchestrator until its time is over.
        """
        now_s = time.time()
        with database_errors():
            await self._prepare()
            return await self._batches.find_one_and_update(
                {
                    "status": {"$in": ACTIVE},
                    "$and": [
                        {"$or": [{"lease.until": {"$lt": now_s}}, _CANCELLED_AT_REST]},
                        {
                            "$or": [
                                {"endpoint": {"$in": list(endpoints)}},
                                {"expires_at": {"$lt": datetime.now(UTC)}},
                            ]
                        },
                    ],
                },
                {"$set": {"lease": {"holder": holder, "until": now_s + self._settings.lease_s}}},
                sort=[("lease.until", ASCENDING), ("created_at", ASCENDING)],
                return_document=True,
            )

    async def renew(
        self, batch_id: str, holder: str, changes: Mapping[str, Any]
    ) -> Document | None:
        """Extend the lease and make these changes; None if it is another's."""
        until = time.time() + self._settings.lease_s
        return await self._change(batch_id, holder, ACTIVE, {"lease.until": until, **changes})

    async def release(self, batch_id: str, holder: str, *, rest_s: float = 0.0) -> None:
        """Let anybody take the batch at once; or, unless it is cancelled, after a rest in which others go first."""
        until = time.time() + rest_s if rest_s else 0.0
        await self._change(batch_id, holder, ACTIVE, {"lease": {"holder": "", "until": until}})

    async def move(
        self, batch_id: str, holder: str, to: str, changes: Mapping[str, Any], *, when: str
    ) -> Document | None:
        """Give the batch another status; None if it is another's, or its status is not `when`."""
        now = datetime.now(UTC)
        at = {f"{to}_at": now} if to in ACTIVE else {f"{to}_at": now, "ended_at": now}
        return await self._change(batch_id, holder, (when,), {"status": to, **at, **changes})

    async def _change(
        self, batch_id: str, holder: str, when: Sequence[str], changes: Mapping[str, Any]
    ) -> Document | None:
        with database_errors():
            return await self._batches.find_one_and_update(
                {"_id": batch_id, "lease.holder": holder, "status": {"$in": list(when)}},
                {"$set": dict(changes)},
                return_document=True,
            )

    async def add_results(
        self, batch_id: str, results: Iterable[LineResult], *, expires_at: datetime
    ) -> None:
        """Store results; one that is there stays as it is."""
        documents = [
            {
                "_id": _result_id(batch_id, one.line),
                "ok": one.ok,
                "text": one.text,
                "usage": one.usage,
                "delete_at": expires_at + RESULTS_KEPT,
            }
            for one in results
        ]
        with database_errors():
            try:
                await self._results.insert_many(documents, ordered=False)
            except BulkWriteError as error:
                details: Document = dict(error.details or {})
                errors = details.get("writeErrors") or [{"code": None}]
                if details.get("writeConcernErrors") or any(
                    one["code"] != DUPLICATE_KEY for one in errors
                ):
                    raise

    async def ended_lines(self, batch_id: str, *, after: int, limit: int) -> list[tuple[int, bool]]:
        """Return lines that have a result, in order, and whether each went well."""
        with database_errors():
            cursor = self._results.find(_after(batch_id, after), {"ok": 1})
            found = await cursor.sort("_id", ASCENDING).limit(limit).to_list(None)
        return [(_line_of(one), one["ok"]) for one in found]

    async def results(self, batch_id: str) -> AsyncIterator[LineResult]:
        """Yield results in the order of their lines. The server bounds the bytes of each of its replies."""
        last, found = 0, True
        while found:
            found, began_s = False, time.monotonic()
            with database_errors():
                cursor = self._results.find(_after(batch_id, last)).sort("_id", ASCENDING)
                async for one in cursor.batch_size(RESULTS_AT_ONCE):
                    last, found = _line_of(one), True
                    yield LineResult(last, one["ok"], bytes(one["text"]), tuple(one["usage"]))
                    # The driver's timeout counts for all replies of a cursor together.
                    if time.monotonic() - began_s > CURSOR_S:
                        break

    async def drop_results(self, batch_id: str) -> None:
        """Delete all results of a batch."""
        with database_errors():
            await self._results.delete_many(_after(batch_id, 0))

    async def _prepare(self) -> None:
        """Create missing indexes."""
        if self._prepared:
            return
        await self._batches.create_index([("key_id", ASCENDING), ("created_at", ASCENDING)])
        await self._batches.create_index([("status", ASCENDING), ("created_at", ASCENDING)])
        await self._batches.create_index([("ended_at", ASCENDING)])
        for collection in (self._batches, self._results):
            await collection.create_index([("delete_at", ASCENDING)], expireAfterSeconds=0)
        self._prepared = True


def _result_id(batch_id: str, line: int) -> str:
    return f"{batch_id}/{line:08d}"


def _after(batch_id: str, line: int) -> Document:
    return {"_id": {"$gt": _result_id(batch_id, line), "$lt": f"{batch_id}/:"}}


def _line_of(result: Document) -> int:
    return int(result["_id"].rpartition("/")[2])
