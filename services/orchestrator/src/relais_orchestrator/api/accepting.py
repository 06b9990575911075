"""Reads what a request asks for and queues it, whichever route it came by."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web

from relais_common.jobs.errors import ModelNotFound
from relais_common.jobs.job import Accepted
from relais_orchestrator.access.auth import Caller
from relais_orchestrator.api.callers import caller_of
from relais_orchestrator.api.parsing import model_of
from relais_orchestrator.app_keys import PARTS
from relais_orchestrator.http import ignored_fields, rate_headers
from relais_orchestrator.http.bodies import read_body
from relais_orchestrator.http.held import HELD, Held
from relais_orchestrator.http.request_ids import call_by_channel
from relais_orchestrator.submission.drafts import Asked, Draft
from relais_orchestrator.submission.reading import Reading


async def read_whole(request: web.Request, caller: Caller) -> bytes:
    """Read a body whose parsing is cheap. Raises as `read_body` does."""
    with request.app[HELD].of(caller.key_id) as held:
        return await _read_body(request, held)


async def _read_body(request: web.Request, held: Held) -> bytes:
    limits = request.app[PARTS].settings.limits
    return await read_body(
        request, held, max_bytes=limits.max_body_bytes, timeout_s=limits.body_timeout_s
    )


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
    with request.app[HELD].of(caller.key_id) as held:
        body = await _read_body(request, held)
        model = model_of(body)
        if model is not None:
            parts.catalogue.root_of(model, caller)
        asked = await parts.readers.read(route, body, caller.key_id)
        ignored_fields.note(request, asked.ignored)
        yield caller, body, asked


async def accept(request: web.Request, draft: Draft, *, caller: Caller, body: bytes) -> Accepted:
    """Queue the draft; the answer's headers say under which channel, and what is left of the key's minute.

    Raises:
        RelaisError: as `Images.check` and `Submitter.accept`.
    """
    draft = await request.app[PARTS].images.check(draft, caller)
    idempotency_key = request.headers.get("Idempotency-Key")
    accepted = await request.app[PARTS].submitter.accept(
        draft, caller=caller, idempotency_key=idempotency_key, body=body
    )
    call_by_channel(request, accepted.channel_id)
    rate_headers.note(request, accepted.buckets)
    return accepted
