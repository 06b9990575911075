"""The operators' routes: the state of queues and workers, and dead letters. They show no key, prompt or answer."""

from __future__ import annotations

import structlog
from aiohttp import web

from relais_common.jobs.channels import channel_model, channel_queue, new_channel_id
from relais_common.jobs.errors import DeadLetterNotFound, ModelNotFound
from relais_orchestrator.api.admin.schemas import (
    AdminQuery,
    ChannelsQuery,
    ChannelsResponse,
    DeadLettersResponse,
    DroppedResponse,
    PageQuery,
    QueuesResponse,
    ReplayedResponse,
    WorkersResponse,
)
from relais_orchestrator.api.callers import caller_of
from relais_orchestrator.api.parsing import parse_query
from relais_orchestrator.app_keys import PARTS
from relais_orchestrator.http.responses import json_response

log = structlog.get_logger(__name__)

TOP_KEYS = 20


async def queues(request: web.Request) -> web.Response:
    """`GET /v1/admin/queues`: waiting and running requests of each model."""
    models = _models(request, parse_query(AdminQuery, request.query))
    inspector = request.app[PARTS].inspector
    views = [await inspector.queue(model, top_keys=TOP_KEYS) for model in models]
    body: QueuesResponse = {"queues": views}
    return json_response(body)


async def workers(request: web.Request) -> web.Response:
    """`GET /v1/admin/workers`: live workers, including those of models that this orchestrator does not declare."""
    parts = request.app[PARTS]
    wanted = parse_query(AdminQuery, request.query).model
    if wanted is not None:
        wanted = parts.catalogue.behind(wanted) or wanted
    states = await parts.registry.alive()
    shown = [state for state in states if wanted in (None, state.model)]
    body: WorkersResponse = {"workers": sorted(shown, key=lambda one: (one.model, one.worker_id))}
    return json_response(body)


async def channels(request: web.Request) -> web.Response:
    """`GET /v1/admin/channels`: unfinished requests of each model, soonest deadline first."""
    query = parse_query(ChannelsQuery, request.query)
    inspector = request.app[PARTS].inspector
    found = []
    for model in _models(request, query):
        found += await inspector.channels(
            model, which=query.status, limit=query.limit, latest=query.latest
        )
    body: ChannelsResponse = {"channels": found}
    return json_response(body)


async def dead_letters(request: web.Request) -> web.Response:
    """`GET /v1/admin/dead-letters`: requests that were set aside, newest first for each model."""
    query = parse_query(PageQuery, request.query)
    inspector = request.app[PARTS].inspector
    found = []
    for model in _models(request, query):
        found += await inspector.dead_letters(model, limit=query.limit)
    body: DeadLettersResponse = {"dead_letters": found}
    return json_response(body)


async def replay(request: web.Request) -> web.Response:
    """`POST /v1/admin/dead-letters/{channel_id}/replay`: 202, and the channel on which the request runs again."""
    operator, channel_id = caller_of(request).key_id, _dead_letter_id(request)
    parts = request.app[PARTS]
    accepted = await parts.inspector.replay(
        channel_id,
        new_channel_id=new_channel_id(channel_queue(channel_id)),
        max_waiting=parts.settings.limits.max_waiting,
    )
    if accepted is None:
        raise _no_dead_letter()
    log.info(
        "dead_letter_replayed",
        channel_id=channel_id,
        replayed_as=accepted.channel_id,
        by=operator,
        duplicate=accepted.duplicate,
    )
    body: ReplayedResponse = {
        "channel_id": accepted.channel_id,
        "replay_of": channel_id,
        "status": accepted.status,
        "queue_position": accepted.queue_position,
        "estimated_wait_s": accepted.estimated_wait_s,
    }
    return json_response(body, status=202)


async def drop(request: web.Request) -> web.Response:
    """`DELETE /v1/admin/dead-letters/{channel_id}`: delete the stored request."""
    operator, channel_id = caller_of(request).key_id, _dead_letter_id(request)
    if not await request.app[PARTS].inspector.drop(channel_id):
        raise _no_dead_letter()
    log.info("dead_letter_dropped", channel_id=channel_id, by=operator)
    body: DroppedResponse = {"channel_id": channel_id, "dropped": True}
    return json_response(body)


def _models(request: web.Request, query: AdminQuery) -> tuple[str, ...]:
    parts = request.app[PARTS]
    if query.model is None:
        return parts.settings.models
    root = parts.catalogue.behind(query.model)
    if root is None:
        raise ModelNotFound(f"the model {query.model!r} does not exist", param="model")
    return (root,)


def _dead_letter_id(request: web.Request) -> str:
    channel_id = request.match_info["channel_id"]
    try:
        channel_model(channel_id)
    except ValueError:
        raise _no_dead_letter() from None
    return channel_id


def _no_dead_letter() -> DeadLetterNotFound:
    return DeadLetterNotFound("there is no such dead letter", param="channel_id")
