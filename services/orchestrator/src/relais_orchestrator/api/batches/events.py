"""`GET /v1/batches/{batch_id}/events`: how a batch proceeds, as server-sent events."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import orjson
from aiohttp import web

from relais_common.jobs.errors import BatchNotFound, FilesUnavailable, KeyRevoked
from relais_orchestrator.api.batches.handlers import batches_of, shown
from relais_orchestrator.api.callers import caller_of
from relais_orchestrator.app_keys import PARTS
from relais_orchestrator.batches.store import ACTIVE, BatchStore, Document
from relais_orchestrator.http.responses import error_body
from relais_orchestrator.streams import sse

LOOK_EVERY_S = 1.0
KEEPALIVE_LOOKS = 15
"""Looks without news between two comments."""

RECONNECT_HINT = b"retry: 1000\n\n"


async def stream_batch(request: web.Request) -> web.StreamResponse:
    """Send the batch whenever it has changed, until it has ended."""
    caller = caller_of(request)
    parts, store = request.app[PARTS], batches_of(request)
    batch_id = request.match_info["batch_id"]
    batch = await store.find(batch_id, key_id=caller.key_id)
    seen = request.headers.get("Last-Event-ID", "")
    if batch["status"] not in ACTIVE and seen == _event_id(batch):
        # There is no more to say; 204 keeps a browser from reconnecting.
        return web.Response(status=204)
    stream = sse.EventStream(request, write_timeout_s=parts.settings.streaming.write_timeout_s)
    with parts.streams.of(caller.key_id):
        await stream.begin()
        await stream.write(RECONNECT_HINT)
        try:
            await _send_changes(request, stream, store, batch)
        except (BatchNotFound, KeyRevoked) as error:
            body = orjson.dumps(error_body(error.info))
            await stream.write(sse.named_frame(str(error.code).encode(), body))
        await stream.end()
    return stream.response


async def _send_changes(
    request: web.Request, stream: sse.EventStream, store: BatchStore, batch: Document
) -> None:
    parts, caller = request.app[PARTS], caller_of(request)
    told, quiet = "", 0
    while True:
        quiet += 1
        if _event_id(batch) != told and (frame := await _frame(store, batch)):
            await stream.write(frame)
            told, quiet = _event_id(batch), 0
        elif quiet % KEEPALIVE_LOOKS == 0:
            await stream.write(sse.KEEPALIVE)
        has_ended = batch["status"] not in ACTIVE and _event_id(batch) == told
        if has_ended or parts.drain.started:
            return
        await asyncio.sleep(LOOK_EVERY_S)
        parts.key_ring.check(caller)
        with suppress(FilesUnavailable):
            batch = await store.find(batch["_id"], key_id=caller.key_id)


async def _frame(store: BatchStore, batch: Document) -> bytes | None:
    """Return the batch as an event; None while MongoDB does not answer."""
    try:
        (seen,) = await shown(store, [batch])
    except FilesUnavailable:
        return None
    name, data = batch["status"].encode(), orjson.dumps(seen)
    return b"id: %b\n%b" % (_event_id(batch).encode(), sse.named_frame(name, data))


def _event_id(batch: Document) -> str:
    counts = batch["counts"]
    return f"{batch['status']}-{counts['completed']}-{counts['failed']}"
