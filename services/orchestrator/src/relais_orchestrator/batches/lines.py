"""Reads a batch's input: lines of bounded size, and what each asks for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Annotated

import msgspec

from relais_common.jobs.errors import InvalidRequest, RelaisError
from relais_orchestrator.access.auth import Caller
from relais_orchestrator.batches.parts import BatchParts
from relais_orchestrator.batches.store import Document
from relais_orchestrator.files.store import FileStore, StoredFile
from relais_orchestrator.submission.drafts import Asked
from relais_orchestrator.submission.images import refuse_addresses

PIECE_BYTES = 32 << 10
"""Bytes that are searched for line ends in one go."""

ENVELOPE_BYTES = 4096
"""Room in a line around its body."""

MAX_CUSTOM_ID = 512


class _Line(msgspec.Struct):
    custom_id: Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_CUSTOM_ID)]
    url: str
    body: msgspec.Raw
    method: str = "POST"


class _Named(msgspec.Struct):
    custom_id: str = ""


_LINES = msgspec.json.Decoder(_Line)
_NAMES = msgspec.json.Decoder(_Named)


@dataclass(frozen=True, slots=True)
class Line:
    """One request of a batch."""

    custom_id: str
    asked: Asked
    model: str


def wrong_line(code: str, message: str, param: str | None = None) -> InvalidRequest:
    """Return an error that only lines of batches have, with OpenAI's code."""
    return InvalidRequest(message, param=param, code=code)


async def input_of(files: FileStore, batch: Document) -> StoredFile:
    """Return a batch's input. Raises FileNotKnown if it was deleted."""
    return await files.find(batch["input_file_id"], key_id=batch["key_id"], expired=True)


def input_lines(parts: BatchParts, file: StoredFile) -> AsyncIterator[tuple[int, bytes | None]]:
    """Return the lines of an input, as `lines_of` does."""
    return lines_of(
        parts.files.read(file), parts.shared.settings.limits.max_body_bytes + ENVELOPE_BYTES
    )


async def lines_of(
    pieces: AsyncIterator[bytes], most_bytes: int
) -> AsyncIterator[tuple[int, bytes | None]]:
    """Yield lines with their numbers, from 1 on; None for one over the bound. Blank ones are counted only."""
    number, line, too_long = 0, bytearray(), False
    async for piece in pieces:
        for start in range(0, len(piece), PIECE_BYTES):
            *ends, rest = piece[start : start + PIECE_BYTES].split(b"\n")
            for end in ends:
                number += 1
                if not too_long and len(line) + len(end) <= most_bytes:
                    line += end
                    if line.strip():
                        yield number, bytes(line)
                else:
                    yield number, None
                line, too_long = bytearray(), False
            too_long = too_long or len(line) + len(rest) > most_bytes
            if too_long:
                line = bytearray()
            else:
                line += rest
            # Millions of blank lines yield nothing.
            await asyncio.sleep(0)
    if too_long:
        yield number + 1, None
    elif line.strip():
        yield number + 1, bytes(line)


def custom_id_of(text: bytes | None) -> str:
    """Return the name of a line, without a look at the rest."""
    try:
        return _NAMES.decode(text or b"").custom_id
    except (msgspec.DecodeError, ValueError, RecursionError):
        return ""


async def read_line(parts: BatchParts, path: str, caller: Caller, text: bytes | None) -> Line:
    """Return what a line asks for.

    Raises:
        RelaisError: it is refused, as its route would refuse it.
    """
    if text is None:
        most = parts.shared.settings.limits.max_body_bytes
        raise wrong_line("line_too_long", f"the line's body is larger than {most} bytes")
    try:
        line = _LINES.decode(text)
    except msgspec.ValidationError as error:
        message, _, at = str(error).partition(" - at `$.")
        param = at.rstrip("`") or message.rpartition("field `")[2].rstrip("`")
        raise InvalidRequest(f"{param}: {message}", param=param, code="invalid_value") from None
    except (msgspec.DecodeError, ValueError, RecursionError):
        raise wrong_line("invalid_json_line", "this line is not valid JSON") from None
    if line.method != "POST":
        raise wrong_line("invalid_method", "method: only POST", "method")
    if line.url != path:
        raise wrong_line("invalid_url", f"url: the batch is for {path}", "url")
    try:
        endpoint = parts.endpoints[path]
        asked = await parts.shared.readers.read(endpoint.reading, bytes(line.body), caller.key_id)
        with endpoint.fields:
            refuse_addresses(asked.draft)
            if endpoint.prepare is not None:
                asked = await endpoint.prepare(parts.shared, caller, asked)
                # A conversation that it goes on from may have some.
                refuse_addresses(asked.draft)
            if asked.stream:
                raise InvalidRequest(
                    "stream: lines are not streamed", param="stream", code="unsupported_value"
                )
            model = parts.shared.submitter.check(asked.draft, caller)
    except RelaisError as error:
        error.param = "body" if error.param is None else f"body.{error.param}"
        raise
    return Line(line.custom_id, asked, model)
