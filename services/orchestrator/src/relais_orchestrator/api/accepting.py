"""Queueing what a request asks for, whichever route it came by."""

from __future__ import annotations

from aiohttp import web

from relais_common.jobs.job import Accepted
from relais_orchestrator.access.auth import Caller
from relais_orchestrator.app_keys import PARTS
from relais_orchestrator.http import rate_headers
from relais_orchestrator.http.request_ids import call_by_channel
from relais_orchestrator.submission.drafts import Draft


async def accept(request: web.Request, draft: Draft, *, caller: Caller, body: bytes) -> Accepted:
    """Queue the draft; the answer's headers say under which channel, and what is left of the key's minute.

    Raises:
        RelaisError: as `Submitter.accept`.
    """
    idempotency_key = request.headers.get("Idempotency-Key")
    accepted = await request.app[PARTS].submitter.accept(
        draft, caller=caller, idempotency_key=idempotency_key, body=body
    )
    call_by_channel(request, accepted.channel_id)
    rate_headers.note(request, accepted.buckets)
    return accepted
