"""Server-sent events as OpenAI-compatible servers write them: what stands after `data:`."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator

from relais_llm_worker.remote.errors import Lost

MAX_EVENT_BYTES = 16 << 20
"""The first chunk of an answer may hold the token ids of a long prompt."""


async def read_events(pieces: AsyncIterator[bytes]) -> AsyncGenerator[bytes]:
    """Data of each event, in order; comments and other fields are left out. Raises Lost if one has no end."""
    rest = b""
    data: list[bytes] = []
    async for piece in pieces:
        *lines, rest = (rest + piece).split(b"\n")
        if len(rest) > MAX_EVENT_BYTES:
            raise Lost("an event is too long")
        for line in lines:
            line = line.removesuffix(b"\r")
            if line.startswith(b"data:"):
                data.append(line[5:].removeprefix(b" "))
            elif not line and data:
                yield b"\n".join(data)
                data = []
    # Some servers leave out the last blank line.
    if rest.startswith(b"data:"):
        data.append(rest[5:].strip())
    if data:
        yield b"\n".join(data)
