"""Reads an uploaded form as it comes, and stores the file meanwhile. No more than a few chunks are held."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

from aiohttp import BodyPartReader, MultipartReader, web
from aiohttp.http import HttpProcessingError
from pydantic import ValidationError

from relais_common.jobs.errors import (
    InvalidRequest,
    PayloadTooLarge,
    RequestTimeout,
    UnsupportedMediaType,
)
from relais_common.runtime.lifecycle import lived_timeout
from relais_orchestrator.api.files.schemas import MAX_FILENAME, PURPOSES, ExpiresAfter
from relais_orchestrator.api.parsing import refusal
from relais_orchestrator.app_keys import PARTS
from relais_orchestrator.files.store import FileStore, FileWriter, StoredFile, file_too_large
from relais_orchestrator.http import ignored_fields
from relais_orchestrator.http.bodies import ask_for_body
from relais_orchestrator.http.ignored_fields import MAX_NAME_LENGTH

T = TypeVar("T")

FORM_TYPE = "multipart/form-data"
PIECE_BYTES = 64 << 10
MAX_FIELD_BYTES = 1024
MAX_FIELDS = 64
OVERHEAD_BYTES = 64 << 10
"""Room for the form around the file."""

FIELDS = frozenset(("purpose", "expires_after", "expires_after[anchor]", "expires_after[seconds]"))
MALFORMED = (ValueError, AssertionError, RuntimeError, HttpProcessingError, web.RequestPayloadError)
"""What aiohttp raises for bytes that are not a form."""


class Upload:
    """One upload of a key. Fields may come in any order, so the file is stored before all of them are known."""

    def __init__(self, request: web.Request, store: FileStore, key_id: str) -> None:
        self._request = request
        self._store = store
        self._key_id = key_id
        limits = request.app[PARTS].settings
        self._files = limits.files
        self._timeout_s = limits.limits.body_timeout_s
        self._ignore_unknown = limits.ignore_unknown
        self._fields: dict[str, str] = {}
        self._ignored: list[str] = []
        self._writer: FileWriter | None = None

    async def receive(self) -> StoredFile:
        """Store the form's file.

        Raises:
            UnsupportedMediaType, InvalidRequest: it is not such a form, or a field is wrong.
            FileTooLarge, FileStorageFull, RequestTimeout, FilesUnavailable: nothing of it is kept.
        """
        stated = self._request.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        if stated != FORM_TYPE:
            raise UnsupportedMediaType(f"send the file as Content-Type: {FORM_TYPE}")
        if (self._request.content_length or 0) > self._files.max_bytes + OVERHEAD_BYTES:
            raise file_too_large(self._files)
        try:
            await self._read()
            ignored_fields.note(self._request, ignored_fields.shown(self._ignored))
            return await self._finish()
        except MALFORMED:
            raise InvalidRequest(f"the body is not {FORM_TYPE}", code="invalid_body") from None
        finally:
            if self._writer is not None:
                # Nobody waits for a client that has left; what it sent is deleted all the same.
                await asyncio.shield(self._writer.discard())

    async def _read(self) -> None:
        form = MultipartReader(self._request.headers, self._request.content)
        await ask_for_body(self._request)
        count = 0
        while (part := await self._in_time(form.next())) is not None:
            count += 1
            if count > MAX_FIELDS:
                raise PayloadTooLarge(f"the form has more than {MAX_FIELDS} fields")
            if not isinstance(part, BodyPartReader):
                raise InvalidRequest("a form within the form", code="invalid_body")
            name = part.name or ""
            if name == "file":
                await self._store_file(part)
            elif name in FIELDS:
                self._fields[name] = await self._field(name, part)
            elif self._ignore_unknown:
                self._ignored.append(name)
                await self._field(name, part)
            else:
                shown = name[:MAX_NAME_LENGTH]
                raise InvalidRequest(
                    f"{shown}: this field is unknown",
                    param=shown or None,
                    code="unknown_parameter",
                )

    async def _store_file(self, part: BodyPartReader) -> None:
        if self._writer is not None:
            raise InvalidRequest("file: one file at a time", param="file")
        if not part.filename:
            raise InvalidRequest("file: it needs a filename", param="file")
        self._writer = await self._store.create(
            key_id=self._key_id, filename=part.filename[:MAX_FILENAME], purpose="batch"
        )
        while not part.at_eof():
            await self._writer.write(await self._in_time(part.read_chunk(PIECE_BYTES)))

    async def _field(self, name: str, part: BodyPartReader) -> str:
        value = b""
        while not part.at_eof():
            value += await self._in_time(part.read_chunk(MAX_FIELD_BYTES))
            if len(value) > MAX_FIELD_BYTES:
                shown = name[:MAX_NAME_LENGTH]
                raise PayloadTooLarge(f"{shown}: at most {MAX_FIELD_BYTES} bytes", param=shown)
        return value.decode(errors="replace")

    async def _finish(self) -> StoredFile:
        if self._writer is None:
            raise _missing("file")
        purpose = self._fields.get("purpose")
        if purpose is None:
            raise _missing("purpose")
        if purpose not in PURPOSES:
            raise InvalidRequest(
                f"purpose: only {', '.join(PURPOSES)} is supported",
                param="purpose",
                code="unsupported_value",
            )
        keep_s = self._keep_s()
        file = await self._writer.close(keep_s=keep_s)
        self._writer = None
        return file

    def _keep_s(self) -> float | None:
        given = {
            name: self._fields[f"expires_after[{name}]"]
            for name in ("anchor", "seconds")
            if f"expires_after[{name}]" in self._fields
        }
        whole = self._fields.get("expires_after")
        if not given and whole is None:
            return None
        try:
            if whole is None:
                return ExpiresAfter.model_validate_strings(given).seconds
            return ExpiresAfter.model_validate_json(whole).seconds
        except ValidationError as error:
            raise refusal(error, field="expires_after") from None

    async def _in_time(self, reading: Awaitable[T]) -> T:
        """Bound each read: a large file may take long, a silent client may not."""
        try:
            async with lived_timeout(self._timeout_s):
                return await reading
        except TimeoutError:
            raise RequestTimeout(f"nothing came for {self._timeout_s:g} s") from None


def _missing(name: str) -> InvalidRequest:
    return InvalidRequest(
        f"{name}: this field is required", param=name, code="missing_required_parameter"
    )
