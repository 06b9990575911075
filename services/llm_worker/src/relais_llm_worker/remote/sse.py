"""Server-sent events as OpenAI-compatible servers write them."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from typing import NamedTuple

from relais_common.remote.errors import Lost, TooMuch

MAX_EVENT_BYTES = 8 << 20
"""Bound on one event. The first chunk of an answer may hold a million token ids of the prompt."""
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class Event(NamedTuple):
    """One event that has data.

    Attributes:
        name: the value of `event:`; empty without one.
        data: the value of `data:`; several lines are joined.
    """

    name: bytes
    data: bytes


async def read_events(pieces: AsyncIterator[bytes], most_bytes: int) -> AsyncGenerator[Event]:
    """Yield events in order. Comments, other fields and events without data are left out.

    Lines end with LF, CR or both.

    Args:
        most_bytes: of the whole stream.

    Raises:
        Lost: an event has no end.
        TooMuch: the stream is longer than it may be.
    """
    lines = _Lines(most_bytes)
    event = _Event()
    async for piece in pieces:
        for line in lines.of(piece):
            if (whole := event.add(line)) is not None:
                yield whole
        if len(lines.rest) + event.size > MAX_EVENT_BYTES:
            raise Lost("an event is too long")
    # Some servers leave out the last blank line.
    if lines.rest.startswith(b"data:"):
        event.add(bytes(lines.rest).rstrip())
    if (whole := event.add(b"")) is not None:
        yield whole


class _Lines:
    """Splits a stream into lines.

    Attributes:
        rest: a line that has not ended yet.
    """

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._after_cr = False
        self._begins = True
        self.rest = bytearray()

    def of(self, piece: bytes) -> list[bytes]:
        """Return the lines that end within this piece. Raises TooMuch."""
        self._most_bytes -= len(piece)
        if self._most_bytes < 0:
            raise TooMuch
        if b"\r" in piece or self._after_cr:
            if self._after_cr and piece.startswith(b"\n"):
                piece = piece[1:]
            self._after_cr = piece.endswith(b"\r")
            piece = piece.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        # A line may come in many pieces: what was searched is not searched again.
        searched = len(self.rest)
        self.rest += piece
        end = self.rest.rfind(b"\n", searched)
        if end < 0:
            return []
        lines = bytes(self.rest[:end]).split(b"\n")
        del self.rest[: end + 1]
        if self._begins:
            self._begins = False
            lines[0] = lines[0].removeprefix(_BYTE_ORDER_MARK)
        return lines


class _Event:
    """The event that is being read.

    Attributes:
        size: bytes of its data.
    """

    def __init__(self) -> None:
        self._name = b""
        self._data: list[bytes] = []
        self.size = 0

    def add(self, line: bytes) -> Event | None:
        """Take in a line; return the event that it ends, if that has data."""
        if line.startswith(b"data:"):
            self._data.append(line[5:].removeprefix(b" "))
            self.size += len(line)
        elif line.startswith(b"event:"):
            self._name = line[6:].strip()
        elif not line:
            name, data = self._name, self._data
            self._name, self._data, self.size = b"", [], 0
            if data:
                return Event(name, b"\n".join(data))
        return None
