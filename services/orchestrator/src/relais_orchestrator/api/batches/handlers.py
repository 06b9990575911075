"""`/v1/batches`: create, list, show and cancel. Orchestrators run them in the background."""

from __future__ import annotations

from datetime import timedelta

import structlog
from aiohttp import web

from relais_common.jobs.errors import FilesUnavailable, InvalidRequest
from relais_orchestrator.access.callers import caller_of
from relais_orchestrator.api.batches.schemas import (
    MAX_WINDOW_HOURS,
    BatchesQuery,
    BatchList,
    BatchRequest,
    batch_object,
)
from relais_orchestrator.api.files.handlers import store_of
from relais_orchestrator.app_keys import PARTS
from relais_orchestrator.batches.store import BatchStore
from relais_orchestrator.http.bodies import read_body
from relais_orchestrator.http.parsing import parse_body, parse_query
from relais_orchestrator.http.responses import json_response

log = structlog.get_logger(__name__)


def batches_of(request: web.Request) -> BatchStore:
    """Return the store. Raises FilesUnavailable if this deployment has none."""
    store = request.app[PARTS].batches
    if store is None:
        raise FilesUnavailable("no batches are kept here: MONGODB_URL is not set")
    return store


async def create_batch(request: web.Request) -> web.Response:
    """`POST /v1/batches`. The input is validated later, because a client would not wait so long."""
    caller = caller_of(request)
    parts = request.app[PARTS]
    batches = batches_of(request)
    with parts.held.of(caller.key_id) as held:
        wanted = parse_body(BatchRequest, await read_body(request, held))
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
    batch = await batches.create(
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
    found, has_more = await batches_of(request).page(
        key_id=caller.key_id, after=query.after, limit=query.limit
    )
    body: BatchList = {
        "object": "list",
        "data": [batch_object(batch) for batch in found],
        "first_id": found[0]["_id"] if found else None,
        "last_id": found[-1]["_id"] if found else None,
        "has_more": has_more,
    }
    return json_response(body)


async def show_batch(request: web.Request) -> web.Response:
    """`GET /v1/batches/{batch_id}`."""
    caller = caller_of(request)
    batch_id = request.match_info["batch_id"]
    return json_response(
        batch_object(await batches_of(request).find(batch_id, key_id=caller.key_id))
    )


async def cancel_batch(request: web.Request) -> web.Response:
    """`POST /v1/batches/{batch_id}/cancel`."""
    caller = caller_of(request)
    batch_id = request.match_info["batch_id"]
    return json_response(
        batch_object(await batches_of(request).cancel(batch_id, key_id=caller.key_id))
    )
