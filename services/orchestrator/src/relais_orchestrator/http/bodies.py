"""Reads request bodies, within bounds and of the right type."""

from __future__ import annotations

import asyncio

from aiohttp import HttpVersion11, web

from relais_common.jobs.errors import (
    InvalidRequest,
    PayloadTooLarge,
    RequestTimeout,
    UnsupportedMediaType,
)
from relais_common.runtime.lifecycle import lived_timeout
from relais_orchestrator.http.held import Held

JSON_TYPE = "application/json"


async def expect_body(request: web.Request) -> None:
    """Check `Expect` without asking for the body: `read_body` does that, once the client has presented a key.

    Raises:
        web.HTTPExpectationFailed: the client expects something other than `100-continue`.
    """
    if request.headers["Expect"].lower() != "100-continue":
        raise web.HTTPExpectationFailed


async def ask_for_body(request: web.Request) -> None:
    """Ask a client that waits for it (`Expect: 100-continue`) to send its body."""
    if "Expect" in request.headers and request.version >= HttpVersion11:
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        # The response has not begun.
        request.writer.output_size = 0


async def read_body(request: web.Request, held: Held, *, max_bytes: int, timeout_s: float) -> bytes:
    """Read the raw body. Unlike `request.read()`, this does not keep it on the request.

    Args:
        held: counts its bytes as they arrive.

    Raises:
        PayloadTooLarge: over `max_bytes`; nothing beyond it is kept.
        RequestTimeout: it did not arrive in time.
        TooManyBytes, ServerBusy: too many bytes are held already.
        UnsupportedMediaType: it is declared as something other than JSON.
        InvalidRequest: its bytes contradict its headers.
    """
    # Not `request.content_type`, which caches what it parses.
    stated = request.headers.get("Content-Type", JSON_TYPE).partition(";")[0].strip().lower()
    if stated not in (JSON_TYPE, "application/octet-stream"):
        raise UnsupportedMediaType("send the body as Content-Type: application/json")
    too_large = PayloadTooLarge(f"the body is larger than {max_bytes} bytes")
    if (request.content_length or 0) > max_bytes:
        raise too_large
    await ask_for_body(request)
    body = bytearray()
    try:
        async with lived_timeout(timeout_s):
            while chunk := await request.content.readany():
                held.add(len(chunk))
                body += chunk
                if len(body) > max_bytes:
                    raise too_large
                # More may have been parsed meanwhile, and then `readany` does not wait.
                await asyncio.sleep(0)
    except TimeoutError:
        raise RequestTimeout(f"the body did not come within {timeout_s:g} s") from None
    except web.RequestPayloadError:
        raise InvalidRequest(
            "the body is cut, or not in its Transfer-Encoding",
            code="invalid_body",
        ) from None
    return bytes(body)
