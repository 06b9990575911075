"""Ended responses in MongoDB: the collection `responses`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import structlog

from relais_common.insights.mongo import (
    ASCENDING,
    Database,
    PyMongoError,
    UpdateOne,
    is_encodable,
)
from relais_common.jobs.errors import ResponsesUnavailable
from relais_common.jobs.job import Status
from relais_common.jobs.records import ApiRecord, StoredAnswer
from relais_orchestrator.responses.settings import ResponseSettings
from relais_orchestrator.tracing.sink import SinkUnavailable

log = structlog.get_logger(__name__)

COLLECTION = "responses"
RETRY_AFTER_S = 5.0
DELETED_KEPT = timedelta(days=7)
"""How long it is remembered that a response was deleted: longer than its record may wait in Redis to be written."""

MOST_BYTES = 15 << 20
"""Of one document; MongoDB takes 16 MiB."""

Document = dict[str, Any]


@contextmanager
def database_errors() -> Iterator[None]:
    """Turn the driver's errors into ResponsesUnavailable."""
    try:
        yield
    except PyMongoError as error:
        log.warning("responses_unavailable", error=f"{type(error).__name__}: {error}"[:300])
        raise ResponsesUnavailable(
            "the database of responses does not answer; try again", retry_after_s=RETRY_AFTER_S
        ) from error


class ResponseStore:
    """The stored responses of all keys. Methods raise ResponsesUnavailable while MongoDB does not answer."""

    def __init__(self, database: Database, settings: ResponseSettings) -> None:
        self._responses = database[COLLECTION]
        self._ttl = timedelta(seconds=settings.ttl_s)
        self._prepared = False

    async def keep(self, answers: Sequence[StoredAnswer]) -> None:
        """Store these. One that is there, or was deleted, stays as it is. Raises SinkUnavailable.

        One that no database takes is left out, and logged.
        """
        until = datetime.now(UTC) + self._ttl
        documents = [_document(one, until) for one in answers]
        writes = [
            UpdateOne({"_id": one["_id"]}, {"$setOnInsert": one}, upsert=True)
            for one in documents
            if _fits(one)
        ]
        if not writes:
            return
        try:
            if not self._prepared:
                await self._responses.create_index([("delete_at", ASCENDING)], expireAfterSeconds=0)
                self._prepared = True
            await self._responses.bulk_write(writes, ordered=False)
        except PyMongoError as error:
            raise SinkUnavailable(f"{type(error).__name__}: {error}"[:300]) from error

    async def find(self, channel_id: str, *, key_id: str) -> StoredAnswer | None:
        """Return a stored response of this key; None if there is none."""
        found = await self.find_all([channel_id], key_id=key_id)
        return found.get(channel_id)

    async def find_all(self, channel_ids: Sequence[str], *, key_id: str) -> dict[str, StoredAnswer]:
        """Return those of these that there are, by channel."""
        wanted = {"_id": {"$in": list(channel_ids)}, "key_id": key_id, "deleted": False}
        with database_errors():
            found = await self._responses.find(wanted).to_list(None)
        return {one["_id"]: _answer(one) for one in found}

    async def delete(self, channel_id: str, *, key_id: str) -> None:
        """Delete a response of this key, also one that is still on its way here."""
        left = {
            "_id": channel_id,
            "key_id": key_id,
            "deleted": True,
            "delete_at": datetime.now(UTC) + DELETED_KEPT,
        }
        with database_errors():
            await self._responses.replace_one({"_id": channel_id}, left, upsert=True)


def _document(answer: StoredAnswer, until: datetime) -> Document:
    return {
        "_id": answer.channel_id,
        "key_id": answer.key_id,
        "status": answer.status.value,
        "head": answer.record.head,
        "input": answer.record.input,
        "text": answer.text,
        "outcome": answer.outcome,
        "deleted": False,
        "delete_at": until,
    }


def _fits(document: Document) -> bool:
    size = sum(len(document[name]) for name in ("head", "input", "outcome"))
    # A bulk write that has one which cannot be encoded fails as a whole.
    if size + len(document["text"].encode()) <= MOST_BYTES and is_encodable(document):
        return True
    log.error("response_not_stored", channel_id=document["_id"])
    return False


def _answer(document: Document) -> StoredAnswer:
    return StoredAnswer(
        channel_id=document["_id"],
        key_id=document["key_id"],
        status=Status(document["status"]),
        record=ApiRecord(bytes(document["head"]), bytes(document["input"]), stored=True),
        text=document["text"],
        outcome=bytes(document["outcome"]),
    )
