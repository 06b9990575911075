"""Handlers of the native routes: submit, show, cancel, vectors."""

from __future__ import annotations

from collections.abc import Iterator

from aiohttp import web
from msgspec import to_builtins

from relais_common.jobs.errors import VectorsNotFound
from relais_common.jobs.events import AnswerEnd, Completed, Failed, Vectors
from relais_common.jobs.job import Accepted, ChannelState, StopReason
from relais_common.queue import codec
from relais_orchestrator.api.accepting import accept, read_asked
from relais_orchestrator.api.callers import own_channel
from relais_orchestrator.api.embeddings.handlers import FLOAT_BYTES, as_json
from relais_orchestrator.api.native.answers import (
    AcceptedResponse,
    AnswerResult,
    ChannelResponse,
    Result,
    VectorsResult,
)
from relais_orchestrator.app_keys import PARTS
from relais_orchestrator.http.held import HELD
from relais_orchestrator.http.large_answers import send_json
from relais_orchestrator.http.responses import error_body, json_response
from relais_orchestrator.submission.reading import Reading


async def submit(request: web.Request) -> web.Response:
    """`POST /v1/requests`: 202 once the request is queued."""
    async with read_asked(request, Reading.NATIVE) as (caller, body, asked):
        accepted = await accept(request, asked.draft, caller=caller, body=body)
    return _accepted_response(request, accepted)


def _accepted_response(request: web.Request, accepted: Accepted) -> web.Response:
    channel_id = accepted.channel_id
    parts = request.app[PARTS]
    path = f"{parts.settings.proxy.root_path}/v1/channels/{channel_id}"
    token = parts.signer.sign(channel_id)
    body: AcceptedResponse = {
        "channel_id": channel_id,
        "status": accepted.status,
        "queue_position": accepted.queue_position,
        "estimated_wait_s": accepted.estimated_wait_s,
        "events_url": f"{path}/events?token={token}",
    }
    return json_response(body, status=202, headers={"Location": path})


async def show(request: web.Request) -> web.Response:
    """`GET /v1/channels/{channel_id}`: the request's status and result."""
    return json_response(_state_body(await own_channel(request)))


async def cancel(request: web.Request) -> web.Response:
    """`DELETE /v1/channels/{channel_id}`: 200 if the request has ended, 202 while its worker stops it."""
    state = await own_channel(request)
    queue = request.app[PARTS].queue
    await queue.cancel(state.channel_id, StopReason.CLIENT)
    state = await queue.state(state.channel_id) or state
    return json_response(_state_body(state), status=200 if state.status.is_terminal else 202)


def _state_body(state: ChannelState) -> ChannelResponse:
    outcome = None if state.outcome is None else codec.decode_event(state.outcome)
    result: Result | None = None
    if isinstance(outcome, Completed):
        result = {
            "text": state.text,
            "finish_reason": outcome.finish_reason,
            "usage": outcome.usage,
            "timings": outcome.timings,
            "vectors": _vectors_body(state.channel_id, outcome),
        }
        if outcome.message is not None:
            result["message"] = to_builtins(outcome.message)
        if outcome.answers:
            result["answers"] = [_answer_body(end) for end in outcome.answers]
    return {
        "channel_id": state.channel_id,
        "model": state.model,
        "operation": state.operation,
        "status": state.status,
        "queue_position": state.queue_position,
        "estimated_wait_s": state.estimated_wait_s,
        "last_event_id": state.tail,
        "accepted_at_s": state.accepted_at_s,
        "started_at_s": state.started_at_s,
        "finished_at_s": state.finished_at_s,
        "result": result,
        "replayed_as": state.replayed_as,
        "error": error_body(outcome.error)["error"] if isinstance(outcome, Failed) else None,
    }


def _answer_body(end: AnswerEnd) -> AnswerResult:
    answer: AnswerResult = {
        "finish_reason": end.finish_reason,
        "output_tokens": end.output_tokens,
        "stop_reason": end.stop_reason,
        "message": to_builtins(end.message),
    }
    if end.reasoning_tokens is not None:
        answer["reasoning_tokens"] = end.reasoning_tokens
    return answer


def _vectors_body(channel_id: str, completed: Completed) -> VectorsResult | None:
    shape = completed.vectors
    if shape is None:
        return None
    body: VectorsResult = {
        "count": shape.count,
        "dimensions": shape.dimensions,
        "truncated": shape.truncated,
        "url": f"/v1/channels/{channel_id}/vectors",
    }
    if shape.labels:
        body["labels"] = list(shape.labels)
    return body


async def vectors(request: web.Request) -> web.StreamResponse:
    """`GET /v1/channels/{channel_id}/vectors`: JSON, or packed if `Accept` names `application/octet-stream`."""
    state = await own_channel(request)
    outcome = None if state.outcome is None else codec.decode_event(state.outcome)
    shape = outcome.vectors if isinstance(outcome, Completed) else None
    held = request.app[HELD]
    # Before they are fetched: clients who do not read would all be given them.
    size = 0 if shape is None else shape.count * shape.dimensions * FLOAT_BYTES
    with held.of(state.key_id, size):
        async with held.turn(state.key_id):
            packed = await request.app[PARTS].queue.vectors(state.channel_id)
        if packed is None or shape is None:
            raise VectorsNotFound("this request has no vectors, or not yet", param="channel_id")
        if "application/octet-stream" in request.headers.get("Accept", ""):
            return web.Response(body=packed, content_type="application/octet-stream")
        return await send_json(request, _vectors_text(packed, shape), holds_bytes=0)


def _vectors_text(packed: bytes, shape: Vectors) -> Iterator[bytes]:
    yield b'{"count":%d,"dimensions":%d,"vectors":[' % (shape.count, shape.dimensions)
    for index, row in enumerate(as_json(packed, shape, base64_rows=False)):
        yield b"," + row if index else row
    yield b"]}"
