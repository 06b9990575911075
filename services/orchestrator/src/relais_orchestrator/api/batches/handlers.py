"""`/v1/batches`: create, list, show and cancel. Orchestrators run them in the background."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

import structlog
from aiohttp import web

from relais_common.jobs.errors import FilesUnavailable, InvalidRequest
from relais_orchestrator.api.accepting import read_whole
from relais_orchestrator.api.batches.schemas import (
    MAX_WINDOW_HOURS,
    BatchesQuery,
    BatchList,
    BatchObject,
    BatchRequest,
    OpenBatches,
    OpenBatchesQuery,
    batch_object,
)
from relais_orchestrator.api.callers import caller_of
from relais_orchestrator.api.files.handlers import store_of
from relais_orchestrator.api.parsing import parse_body, parse_query
from relais_orchestrator.batches.parts import BATCHES, BatchParts
from relais_orchestrator.batches.store import BatchStore, Document
from relais_orchestrator.http.responses import json_response

log = structlog.get_logger(__name__)


def batches_of(request: web.Request) -> BatchStore:
    """Return the store. Raises FilesUnavailable if this deployment has none."""
    return _parts_of(request).store


def _parts_of(request: web.Request) -> BatchParts:
    parts = request.app.get(BATCHES)
    if parts is None:
        raise FilesUnavailable("no batches are kept here: MONGODB_URL is not set")
    return parts


async def create_batch(request: web.Request) -> web.Response:
    """`POST /v1/batches`. The input is validated later, because a client would not wait so long."""
    caller = caller_of(request)
    parts = _parts_of(request)
    wanted = parse_body(BatchRequest, await read_whole(request, caller))
    if wanted.endpoint not in parts.endpoints:
        raise InvalidRequest(
            f"endpoint: one of {', '.join(sorted(parts.endpoints))}",
            param="endpoint",
            code="unsupported_value",
        )
    hours = int(wanted.completion_window.removesuffix("h"))
    if hours > MAX_WINDOW_HOURS:
        raise InvalidRequest(
            f"completion_window: at most {MAX_WINDOW_HOURS}h", param="completion_window"
        )
    file = await store_of(request).find(wanted.input_file_id, key_id=caller.key_id)
    if file.purpose != "batch":
        raise InvalidRequest(
            "input_file_id: the file's purpose is not batch", param="input_file_id"
        )
    expires = wanted.output_expires_after
    batch = await parts.store.create(
        key_id=caller.key_id,
        window=timedelta(hours=hours),
        fields={
            "endpoint": wanted.endpoint,
            "input_file_id": file.file_id,
            "completion_window": wanted.completion_window,
            "metadata": wanted.metadata,
            "output_keep_s": None if expires is None else expires.seconds,
        },
    )
    log.info("batch_created", batch_id=batch["_id"], key_id=caller.key_id)
    return json_response(batch_object(batch))


async def list_batches(request: web.Request) -> web.Response:
    """`GET /v1/batches`."""
    caller = caller_of(request)
    query = parse_query(BatchesQuery, request.query)
    store = batches_of(request)
    found, has_more = await store.page(key_id=caller.key_id, after=query.after, limit=query.limit)
    body: BatchList = {
        "object": "list",
        "data": await shown(store, found),
        "first_id": found[0]["_id"] if found else None,
        "last_id": found[-1]["_id"] if found else None,
        "has_more": has_more,
    }
    return json_response(body)


async def list_open_batches(request: web.Request) -> web.Response:
    """`GET /v1/admin/batches`: batches of all keys that have not ended, the oldest first."""
    query = parse_query(OpenBatchesQuery, request.query)
    store = batches_of(request)
    found = await store.open(limit=query.limit)
    objects = await shown(store, found)
    body: OpenBatches = {
        "batches": [
            {**one, "key_id": batch["key_id"]} for one, batch in zip(objects, found, strict=True)
        ]
    }
    return json_response(body)


async def show_batch(request: web.Request) -> web.Response:
    """`GET /v1/batches/{batch_id}`."""
    caller = caller_of(request)
    batch_id = request.match_info["batch_id"]
    store = batches_of(request)
    (batch,) = await shown(store, [await store.find(batch_id, key_id=caller.key_id)])
    return json_response(batch)


async def cancel_batch(request: web.Request) -> web.Response:
    """`POST /v1/batches/{batch_id}/cancel`."""
    caller = caller_of(request)
    batch_id = request.match_info["batch_id"]
    store = batches_of(request)
    (batch,) = await shown(store, [await store.cancel(batch_id, key_id=caller.key_id)])
    return json_response(batch)


async def shown(store: BatchStore, batches: Sequence[Document]) -> list[BatchObject]:
    """Return batches as the API shows them. Raises FilesUnavailable."""
    positions = await store.positions(batches)
    return [batch_object(one, positions.get(one["_id"])) for one in batches]
