"""`/v1/models`. Clients of Anthropic's API, which send `anthropic-version`, get its form."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

from aiohttp import web

from relais_common.jobs.errors import InvalidRequest
from relais_orchestrator.access.auth import Caller
from relais_orchestrator.api.callers import caller_of
from relais_orchestrator.api.messages.objects import ModelInfo, ModelPage
from relais_orchestrator.api.models.schemas import ModelsQuery
from relais_orchestrator.api.openai import objects
from relais_orchestrator.api.openai.objects import ModelList, ModelObject
from relais_orchestrator.api.parsing import parse_query
from relais_orchestrator.app_keys import PARTS, Parts
from relais_orchestrator.http.request_ids import ANTHROPIC_VERSION
from relais_orchestrator.http.responses import json_response
from relais_orchestrator.submission.model_states import ModelState


async def list_models(request: web.Request) -> web.Response:
    """`GET /v1/models`: the models that the key may use, under all their names, with or without a worker."""
    caller = caller_of(request)
    query = parse_query(ModelsQuery, request.query)
    parts = request.app[PARTS]
    states = await parts.model_states.all()
    names = parts.catalogue.names_of(caller)
    if ANTHROPIC_VERSION in request.headers:
        return json_response(_page(parts, caller, names, states, query))
    data = [_model(parts, caller, name, states) for name in names]
    body: ModelList = {"object": "list", "data": data}
    return json_response(body)


async def show_model(request: web.Request) -> web.Response:
    """`GET /v1/models/{model}`: one model."""
    caller = caller_of(request)
    parts = request.app[PARTS]
    name = request.match_info["model"]
    parts.catalogue.root_of(name, caller)
    form = _info if ANTHROPIC_VERSION in request.headers else _model
    return json_response(form(parts, caller, name, await parts.model_states.all()))


def _model(
    parts: Parts, caller: Caller, name: str, states: Mapping[str, ModelState]
) -> ModelObject:
    root = parts.catalogue.root_of(name, caller)
    state = states.get(root)
    shown: objects.ModelState = {"operation": parts.catalogue.operation_of(root)}
    if state is not None:
        shown |= {
            "state": state.state,
            "workers": state.workers,
            "capacity": state.capacity,
            "running": state.running,
            "waiting": state.waiting,
            "estimated_wait_s": state.estimated_wait_s,
        }
    return {
        "id": name,
        "object": "model",
        "created": parts.started_at_s,
        "owned_by": "relais",
        "root": root,
        "parent": None if state is None else state.parent,
        "max_model_len": None if state is None else state.max_model_len,
        "relais": shown,
    }


def _info(parts: Parts, caller: Caller, name: str, states: Mapping[str, ModelState]) -> ModelInfo:
    state = states.get(parts.catalogue.root_of(name, caller))
    longest = None if state is None else state.max_model_len
    return {
        "type": "model",
        "id": name,
        "display_name": name,
        "created_at": f"{datetime.fromtimestamp(parts.started_at_s, UTC):%Y-%m-%dT%H:%M:%SZ}",
        "lifecycle": "active",
        "max_input_tokens": longest,
        "max_tokens": longest,
    }


def _page(
    parts: Parts,
    caller: Caller,
    names: tuple[str, ...],
    states: Mapping[str, ModelState],
    query: ModelsQuery,
) -> ModelPage:
    for param in ("after_id", "before_id"):
        if getattr(query, param) not in (None, *names):
            raise InvalidRequest(f"{param}: there is no such model", param=param)
    first = 0 if query.after_id is None else names.index(query.after_id) + 1
    end = len(names) if query.before_id is None else names.index(query.before_id)
    backwards = query.after_id is None and query.before_id is not None
    if backwards:
        first = max(0, end - query.limit)
    shown = names[first : min(end, first + query.limit)]
    return {
        "data": [_info(parts, caller, name, states) for name in shown],
        "has_more": first > 0 if backwards else first + len(shown) < end,
        "first_id": shown[0] if shown else None,
        "last_id": shown[-1] if shown else None,
    }
