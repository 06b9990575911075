"""`TraceSink` over MongoDB: the collection `traces`, its indexes and its retention."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from relais_common.insights.mongo import (
    ASCENDING,
    NOT_ENCODABLE,
    BulkWriteError,
    Database,
    OperationFailure,
    PyMongoError,
    UpdateOne,
    is_encodable,
)
from relais_common.jobs.traces import COLLECTION, Trace, trace_document
from relais_orchestrator.tracing.sink import Outcome, SinkUnavailable

_INDEXES = (
    ("recorded_at", "finished_at"),  # what rollups have not seen yet
    ("key_id", "finished_at"),  # what a client had
)
_INDEX_EXISTS_OTHERWISE = 85

_OF_THE_DOCUMENT = frozenset(
    # BadValue, FailedToParse, TypeMismatch, InvalidBSON, ConflictingUpdateOperators, DollarPrefixedFieldName,
    # InvalidIdField, EmptyFieldName, DottedFieldName, DocumentValidationFailure, and three of size.
    (2, 9, 14, 22, 40, 52, 53, 56, 57, 121, 10334, 17280, 17419)
)
"""Error codes that concern one document. Others may be temporary: a full disk, a quota, a primary stepping down."""


class MongoTraceSink:
    """Writes in bulk, and returns once a majority of the servers has journalled the write."""

    def __init__(self, database: Database, *, retention_days: int) -> None:
        self._database = database
        self._traces = database[COLLECTION]
        self._retention_s = retention_days * 24 * 3600
        self._prepared = False

    async def write(self, traces: Sequence[Trace]) -> Outcome:
        try:
            if not self._prepared:
                await self._prepare()
                self._prepared = True
            return await self._write(traces, datetime.now(UTC))
        except PyMongoError as error:
            raise SinkUnavailable(f"{type(error).__name__}: {error}"[:300]) from error

    async def _write(self, traces: Sequence[Trace], recorded_at: datetime) -> Outcome:
        documents: dict[int, dict[str, Any]] = {}
        refused: dict[int, str] = {}
        for at, trace in enumerate(traces):
            try:
                documents[at] = trace_document(trace, recorded_at=recorded_at)
            except (ValueError, OverflowError, OSError) as error:
                refused[at] = f"no time that there is: {error}"
        try:
            judged = await self._upsert(documents)
        except NOT_ENCODABLE:
            # The driver does not say which document cannot be encoded.
            for at in [at for at, document in documents.items() if not is_encodable(document)]:
                refused[at] = "not encodable"
                del documents[at]
            judged = await self._upsert(documents)
        for at, (code, why) in judged.items():
            if code in _OF_THE_DOCUMENT:
                refused[at] = why
        postponed = {at: why for at, (_, why) in judged.items() if at not in refused}
        return Outcome(refused, postponed)

    async def _upsert(self, documents: dict[int, dict[str, Any]]) -> dict[int, tuple[int, str]]:
        """Write documents; return the code and message of each one that was not written, by its place."""
        if not documents:
            return {}
        # Existing documents stay: a trace that comes again, because its receipt was lost, changes nothing.
        writes = [
            UpdateOne({"_id": document["_id"]}, {"$setOnInsert": document}, upsert=True)
            for document in documents.values()
        ]
        try:
            await self._traces.bulk_write(writes, ordered=False)
        except BulkWriteError as error:
            details: dict[str, Any] = dict(error.details or {})
            if details.get("writeConcernErrors") or not details.get("writeErrors"):
                raise  # written, but not for good
            places = list(documents)
            return {
                places[one["index"]]: (one["code"], f"{one['code']}: {one.get('errmsg')}"[:300])
                for one in details["writeErrors"]
            }
        return {}

    async def _prepare(self) -> None:
        """Create missing indexes and apply the current retention."""
        for fields in _INDEXES:
            await self._traces.create_index([(one, ASCENDING) for one in fields])
        try:
            await self._traces.create_index(
                [("finished_at", ASCENDING)], expireAfterSeconds=self._retention_s
            )
        except OperationFailure as error:
            if error.code != _INDEX_EXISTS_OTHERWISE:
                raise
            index = {
                "keyPattern": {"finished_at": ASCENDING},
                "expireAfterSeconds": self._retention_s,
            }
            await self._database.command({"collMod": COLLECTION, "index": index})
