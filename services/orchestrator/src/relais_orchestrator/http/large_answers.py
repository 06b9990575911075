"""Sends large responses, counted against their key until the client has read them, in pieces if possible."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Mapping

from aiohttp import web
from aiohttp.typedefs import Handler

from relais_orchestrator.http.held import HELD, HOLDER, HeldBytes

PIECE_BYTES = 64 << 10
"""A connection's high-water mark; smaller responses are not counted."""


@web.middleware
async def hold_answers(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Count a large response, sent in one piece, until its client has read it."""
    response = await handler(request)
    body = response.body if isinstance(response, web.Response) else None
    if isinstance(body, bytes) and len(body) > PIECE_BYTES:
        with request.app[HELD].of(request.get(HOLDER, ""), len(body)):
            await response.prepare(request)
            await response.write_eof()
    return response


async def send_json(
    request: web.Request,
    parts: Iterable[bytes],
    *,
    holds_bytes: int,
    headers: Mapping[str, str] | None = None,
) -> web.StreamResponse:
    """Send JSON that is produced as the client reads it, one bounded piece at a time.

    Args:
        parts: the JSON text, in parts produced on demand; each takes well under a millisecond.
        holds_bytes: size of the source of `parts`, which counts against the key meanwhile.

    Raises:
        TooManyBytes, ServerBusy: too many bytes are held already.
    """
    held, key_id = request.app[HELD], request.get(HOLDER, "")
    left = iter(parts)
    with held.of(key_id, holds_bytes):
        response = web.StreamResponse(headers=headers)
        response.content_type = "application/json"
        await response.prepare(request)
        piece = b"" if request.method == "HEAD" else await _next_piece(held, key_id, left)
        while len(piece) >= PIECE_BYTES:
            await response.write(piece)
            piece = await _next_piece(held, key_id, left)
        await response.write_eof(piece)
        return response


async def _next_piece(held: HeldBytes, key_id: str, parts: Iterator[bytes]) -> bytes:
    """Return at least `PIECE_BYTES` of it, or the rest."""
    piece = bytearray()
    async with held.turn(key_id):
        for part in parts:
            piece += part
            if len(piece) >= PIECE_BYTES:
                # One per turn of the event loop, however many are requested.
                await asyncio.sleep(0)
                break
    return bytes(piece)
