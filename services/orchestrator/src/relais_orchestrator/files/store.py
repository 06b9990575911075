"""Files in MongoDB, laid out as GridFS has them: a document in `files.files`, and chunks in `files.chunks`.

The driver's own writer is not used: it buffers up to 48 MB of an upload. A file has the state `writing` at first, and
exists for clients once it is `ready`. A process that dies while it writes leaves a file that `expire` deletes.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import structlog

from relais_common.insights.mongo import ASCENDING, DESCENDING, Database, PyMongoError
from relais_common.jobs.errors import (
    FileNotKnown,
    FileStorageFull,
    FilesUnavailable,
    FileTooLarge,
)
from relais_orchestrator.files.settings import FileLimits

log = structlog.get_logger(__name__)

FILES = "files.files"
CHUNKS = "files.chunks"
CHUNK_BYTES = 255 * 1024
"""GridFS's own size."""

CHUNKS_AT_ONCE = 8
"""Chunks per write and per read. Each write waits for the journal."""

BUFFER_BYTES = CHUNK_BYTES * CHUNKS_AT_ONCE
RETRY_AFTER_S = 5.0
ABANDONED_AFTER = timedelta(days=1)
EXPIRED_AT_ONCE = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredFile:
    """One file.

    Attributes:
        batch_id: the batch that wrote it; None for an upload.
    """

    file_id: str
    key_id: str
    filename: str
    purpose: str
    size_bytes: int
    created_at: datetime
    expires_at: datetime
    batch_id: str | None = None


@contextmanager
def database_errors() -> Iterator[None]:
    """Turn the driver's errors into FilesUnavailable."""
    try:
        yield
    except PyMongoError as error:
        log.warning("files_unavailable", error=f"{type(error).__name__}: {error}"[:300])
        raise FilesUnavailable(
            "the database of files does not answer; try again", retry_after_s=RETRY_AFTER_S
        ) from error


def new_file_id() -> str:
    """Return a new id of 144 random bits."""
    return f"file-{secrets.token_urlsafe(18)}"


class FileStore:
    """The files of all keys. Every method raises FilesUnavailable while MongoDB does not answer."""

    def __init__(self, database: Database, limits: FileLimits) -> None:
        self._files = database[FILES]
        self._chunks = database[CHUNKS]
        self._limits = limits
        self._prepared = False

    async def create(
        self,
        *,
        key_id: str,
        filename: str,
        purpose: str,
        batch_id: str | None = None,
    ) -> FileWriter:
        """Begin a file; nobody sees it before it is closed.

        Raises:
            FileStorageFull: the key's files take all that they may.
        """
        with database_errors():
            await self._prepare()
            held = 0 if batch_id else await self._bytes_of(key_id)
            left = self._limits.max_bytes_per_key - held
            if left <= 0:
                raise _storage_full(self._limits)
            now = datetime.now(UTC)
            file_id = new_file_id()
            await self._files.insert_one(
                {
                    "_id": file_id,
                    "filename": filename,
                    "length": 0,
                    "chunkSize": CHUNK_BYTES,
                    "uploadDate": now,
                    "metadata": {
                        "state": "writing",
                        "key_id": key_id,
                        "purpose": purpose,
                        "batch_id": batch_id,
                        "expires_at": now + ABANDONED_AFTER,
                    },
                }
            )
        # The results of a batch are never refused: its input was accepted.
        most = None if batch_id else min(self._limits.max_bytes, left)
        return FileWriter(self, self._limits, file_id, now, most)

    async def find(self, file_id: str, *, key_id: str, expired: bool = False) -> StoredFile:
        """Return a file of this key.

        Args:
            expired: also if its time is over and it is only kept because it is in use.

        Raises:
            FileNotKnown.
        """
        wanted = _visible(key_id) | {"_id": file_id}
        if expired:
            del wanted["metadata.expires_at"]
        with database_errors():
            found = await self._files.find_one(wanted)
        if found is None:
            raise FileNotKnown("there is no such file", param="file_id")
        return _stored(found)

    async def page(
        self, *, key_id: str, purpose: str | None, after: str | None, limit: int, ascending: bool
    ) -> tuple[list[StoredFile], bool]:
        """Return files by age, and whether more follow. Raises FileNotKnown if `after` is not one of them."""
        wanted = _visible(key_id) | ({} if purpose is None else {"metadata.purpose": purpose})
        direction = ASCENDING if ascending else DESCENDING
        if after is not None:
            last = await self.find(after, key_id=key_id)
            beyond = "$gt" if ascending else "$lt"
            wanted["$or"] = [
                {"uploadDate": {beyond: last.created_at}},
                {"uploadDate": last.created_at, "_id": {beyond: last.file_id}},
            ]
        with database_errors():
            cursor = self._files.find(wanted).sort([("uploadDate", direction), ("_id", direction)])
            found = await cursor.limit(limit + 1).to_list(None)
        return [_stored(one) for one in found[:limit]], len(found) > limit

    async def read(
        self, file: StoredFile, start: int = 0, end: int | None = None
    ) -> AsyncIterator[bytes]:
        """Yield the bytes from `start` up to `end`, in pieces. Each read is a query of its own: a reader may be slow.

        Raises:
            FileNotKnown: the file was deleted meanwhile.
        """
        end = file.size_bytes if end is None else end
        at = start
        while at < end:
            first = at // CHUNK_BYTES
            last = min(first + CHUNKS_AT_ONCE, -(-end // CHUNK_BYTES)) - 1
            with database_errors():
                wanted = {"files_id": file.file_id, "n": {"$gte": first, "$lte": last}}
                chunks = await self._chunks.find(wanted).sort("n", ASCENDING).to_list(None)
            if [one["n"] for one in chunks] != list(range(first, last + 1)):
                raise FileNotKnown("the file was deleted", param="file_id")
            for one in chunks:
                data = one["data"][at - one["n"] * CHUNK_BYTES : end - one["n"] * CHUNK_BYTES]
                at += len(data)
                yield data

    async def delete(self, file_id: str) -> None:
        """Delete a file, whatever its state. Its document goes last, so that a delete that was cut is repeated."""
        with database_errors():
            await self._files.update_one(
                {"_id": file_id},
                {"$set": {"metadata.state": "deleted", "metadata.expires_at": datetime.now(UTC)}},
            )
            await self._chunks.delete_many({"files_id": file_id})
            await self._files.delete_one({"_id": file_id})

    async def delete_of_batch(self, batch_id: str) -> None:
        """Delete what an earlier holder of this batch wrote and did not hand over."""
        with database_errors():
            found = await self._files.find({"metadata.batch_id": batch_id}, {"_id": 1}).to_list(
                None
            )
        for one in found:
            await self.delete(one["_id"])

    async def expire(self, in_use: Sequence[str] = ()) -> int:
        """Delete files whose time is over, and those that nobody finished writing; returns how many."""
        with database_errors():
            await self._prepare()
            wanted: dict[str, Any] = {"metadata.expires_at": {"$lte": datetime.now(UTC)}}
            if in_use:
                wanted["_id"] = {"$nin": list(in_use)}
            found = await self._files.find(wanted, {"_id": 1}).limit(EXPIRED_AT_ONCE).to_list(None)
        for one in found:
            await self.delete(one["_id"])
        return len(found)

    async def _bytes_of(self, key_id: str) -> int:
        groups = self._files.aggregate(
            [
                {"$match": {"metadata.key_id": key_id}},
                {"$group": {"_id": None, "bytes": {"$sum": "$length"}}},
            ]
        )
        found = await groups.to_list(1)
        return int(found[0]["bytes"]) if found else 0

    async def _prepare(self) -> None:
        """Create missing indexes."""
        if self._prepared:
            return
        await self._chunks.create_index([("files_id", ASCENDING), ("n", ASCENDING)], unique=True)
        await self._files.create_index([("metadata.key_id", ASCENDING), ("uploadDate", ASCENDING)])
        await self._files.create_index([("metadata.expires_at", ASCENDING)])
        await self._files.create_index([("metadata.batch_id", ASCENDING)])
        self._prepared = True

    async def insert_chunks(self, file_id: str, first: int, chunks: Sequence[bytes]) -> None:
        """Add chunks to a file that is being written."""
        with database_errors():
            await self._chunks.insert_many(
                [
                    {"files_id": file_id, "n": first + at, "data": data}
                    for at, data in enumerate(chunks)
                ]
            )

    async def publish(self, file_id: str, *, size_bytes: int, expires_at: datetime) -> StoredFile:
        """Let clients see a written file. Raises FileNotKnown: it was deleted meanwhile."""
        changes = {"metadata.state": "ready", "metadata.expires_at": expires_at}
        with database_errors():
            found = await self._files.find_one_and_update(
                {"_id": file_id, "metadata.state": "writing"},
                {"$set": {"length": size_bytes, **changes}},
                return_document=True,
            )
        if found is None:
            raise FileNotKnown("the file was deleted while it was written")
        return _stored(found)


class FileWriter:
    """Writes one file; close it, or discard it.

    Args:
        most_bytes: None for any number.
    """

    def __init__(
        self,
        store: FileStore,
        limits: FileLimits,
        file_id: str,
        created_at: datetime,
        most_bytes: int | None,
    ) -> None:
        self.file_id = file_id
        self.size_bytes = 0
        self._store = store
        self._limits = limits
        self._created_at = created_at
        self._most_bytes = most_bytes
        self._buffer = bytearray()
        self._chunks = 0

    async def write(self, data: bytes) -> None:
        """Add bytes.

        Raises:
            FileTooLarge, FileStorageFull: too many; the file is to be discarded.
        """
        self.size_bytes += len(data)
        if self._most_bytes is not None and self.size_bytes > self._most_bytes:
            if self.size_bytes > self._limits.max_bytes:
                raise file_too_large(self._limits)
            raise _storage_full(self._limits)
        self._buffer += data
        while len(self._buffer) >= BUFFER_BYTES:
            await self._flush(CHUNKS_AT_ONCE)

    async def close(self, *, keep_s: float | None = None) -> StoredFile:
        """Store what is left and let clients see the file.

        Args:
            keep_s: how long it is kept, from its creation on.

        Raises:
            FileNotKnown: it was deleted meanwhile.
        """
        await self._flush(-(-len(self._buffer) // CHUNK_BYTES))
        keep = timedelta(seconds=self._limits.retention_s if keep_s is None else keep_s)
        return await self._store.publish(
            self.file_id, size_bytes=self.size_bytes, expires_at=self._created_at + keep
        )

    async def discard(self) -> None:
        """Delete what was written; if that fails, it expires."""
        try:
            await self._store.delete(self.file_id)
        except FilesUnavailable:
            log.warning("file_not_discarded", file_id=self.file_id)

    async def _flush(self, count: int) -> None:
        ends = range(CHUNK_BYTES, (count + 1) * CHUNK_BYTES, CHUNK_BYTES)
        chunks = [bytes(self._buffer[end - CHUNK_BYTES : end]) for end in ends]
        if chunks:
            await self._store.insert_chunks(self.file_id, self._chunks, chunks)
            self._chunks += len(chunks)
            del self._buffer[: count * CHUNK_BYTES]


def file_too_large(limits: FileLimits) -> FileTooLarge:
    """Return the error for an upload over `MAX_FILE_BYTES`."""
    return FileTooLarge(f"file: at most {limits.max_bytes} bytes", param="file")


def _storage_full(limits: FileLimits) -> FileStorageFull:
    return FileStorageFull(
        f"the files of one key have at most {limits.max_bytes_per_key} bytes: delete some",
        param="file",
    )


def _visible(key_id: str) -> dict[str, Any]:
    return {
        "metadata.key_id": key_id,
        "metadata.state": "ready",
        "metadata.expires_at": {"$gt": datetime.now(UTC)},
    }


def _stored(found: Mapping[str, Any]) -> StoredFile:
    metadata = found["metadata"]
    return StoredFile(
        file_id=found["_id"],
        key_id=metadata["key_id"],
        filename=found["filename"],
        purpose=metadata["purpose"],
        size_bytes=found["length"],
        created_at=found["uploadDate"],
        expires_at=metadata["expires_at"],
        batch_id=metadata["batch_id"],
    )
