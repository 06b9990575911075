"""Server-sent events as OpenAI-compatible servers write them."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from typing import NamedTuple

from relais_llm_worker.remote.errors import Lost, TooMuch

MAX_EVENT_BYTES = 8 << 20
"""The first chunk of an answer may hold the token ids of a long prompt: a million of them fit."""
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class Event(NamedTuple):
    """One event that has data.

    Attributes:
        name: what stands after `event:`; empty where nothing does.
        data: what stands after `data:`; several such lines are joined.
    """

    name: bytes
    data: bytes


async def read_events(pieces: AsyncIterator[bytes], most_bytes: int) -> AsyncGenerator[Event]:
    """Events in order; comments, other fields and events without data are left out.

    Lines end with LF, CR or both.

    Args:
        most_bytes: of the whole stream.

    Raises:
        Lost: an event has no end.
        TooMuch: the stream is longer than it may be.
    """
    rest = bytearray()
    total = size = 0
    name = b""
    data: list[bytes] = []
    after_cr = False
    begins = True
    async for piece in pieces:
        total += len(piece)
        if total > most_bytes:
            raise TooMuch
        if b"\r" in piece or after_cr:
            if after_cr and piece.startswith(b"\n"):
                piece = piece[1:]
            after_cr = piece.endswith(b"\r")
            piece = piece.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        # A line may come in many pieces: what was searched is not searched again.
        searched = len(rest)
        rest += piece
        end = rest.rfind(b"\n", searched)
        if end >= 0:
            lines = bytes(rest[:end]).split(b"\n")
            del rest[: end + 1]
            if begins:
                begins = False
                lines[0] = lines[0].removeprefix(_BYTE_ORDER_MARK)
            for line in lines:
                if line.startswith(b"data:"):
                    data.append(line[5:].removeprefix(b" "))
                    size += len(line)
                elif line.startswith(b"event:"):
                    name = line[6:].strip()
                elif not line:
                    if data:
                        yield Event(name, b"\n".join(data))
                        data = []
                        size = 0
                    name = b""
        if len(rest) + size > MAX_EVENT_BYTES:
            raise Lost("an event is too long")
    # Some servers leave out the last blank line.
    if rest.startswith(b"data:"):
        data.append(bytes(rest[5:]).strip())
    if data:
        yield Event(name, b"\n".join(data))
