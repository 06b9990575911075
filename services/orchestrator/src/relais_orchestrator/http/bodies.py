"""Reads request bodies, within bounds and of the right type."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import HttpVersion11, web

from relais_common.jobs.errors import (
    InvalidRequest,
    ModelNotFound,
    PayloadTooLarge,
    RequestTimeout,
    UnsupportedMediaType,
)
from relais_common.runtime.lifecycle import lived_timeout
from relais_orchestrator.access.auth import Caller
from relais_orchestrator.access.callers import caller_of
from relais_orchestrator.app_keys import PARTS
from relais_orchestrator.http import ignored_fields
from relais_orchestrator.http.held import HOLDER, Held
from relais_orchestrator.http.parsing import model_of
from relais_orchestrator.http.reading import Reading
from relais_orchestrator.submission.drafts import Asked

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


async def read_body(request: web.Request, held: Held) -> bytes:
    """Read the raw body. Unlike `request.read()`, this does not keep it on the request.

    Args:
        held: counts its bytes as they arrive.

    Raises:
        PayloadTooLarge: over the application's bound; nothing beyond it is kept.
        RequestTimeout: it did not arrive in time.
        TooManyBytes, ServerBusy: too many bytes are held already.
        UnsupportedMediaType: it is declared as something other than JSON.
        InvalidRequest: its bytes contradict its headers.
    """
    # Not `request.content_type`, which caches what it parses.
    stated = request.headers.get("Content-Type", JSON_TYPE).partition(";")[0].strip().lower()
    if stated not in (JSON_TYPE, "application/octet-stream"):
        raise UnsupportedMediaType("send the body as Content-Type: application/json")
    parts = request.app[PARTS]
    limit, timeout_s = parts.settings.limits.max_body_bytes, parts.settings.limits.body_timeout_s
    too_large = PayloadTooLarge(f"the body is larger than {limit} bytes")
    if (request.content_length or 0) > limit:
        raise too_large
    await ask_for_body(request)
    body = bytearray()
    try:
        async with lived_timeout(timeout_s):
            while chunk := await request.content.readany():
                held.add(len(chunk))
                body += chunk
                if len(body) > limit:
                    raise too_large
    except TimeoutError:
        raise RequestTimeout(f"the body did not come within {timeout_s:g} s") from None
    except web.RequestPayloadError:
        raise InvalidRequest(
            "the body is cut, or not in its Transfer-Encoding",
            code="invalid_body",
        ) from None
    return bytes(body)


@asynccontextmanager
async def read_asked(
    request: web.Request, route: Reading
) -> AsyncIterator[tuple[Caller, bytes, Asked]]:
    """Give the caller, the body, and the parsed request. Cheap checks come first.

    Leave the context once the job is queued: until then its key holds the body, also while it waits to be parsed.

    Raises:
        RelaisError: the request was refused; nothing of it is kept.
    """
    parts = request.app[PARTS]
    caller = caller_of(request)
    if not parts.catalogue.names_of(caller):
        raise ModelNotFound("this key may use no model", param="model")
    with parts.held.of(request.get(HOLDER, "")) as held:
        body = await read_body(request, held)
        model = model_of(body)
        if model is not None:
            parts.catalogue.root_of(model, caller)
        asked = await parts.readers.read(route, body, caller.key_id)
        ignored_fields.note(request, asked.ignored)
        yield caller, body, asked
