"""`/v1/chat/completions`, `/v1/completions`, `/v1/models`."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial

import orjson
from aiohttp import web

from relais_common.jobs.channels import channel_model
from relais_common.jobs.job import OnDisconnect
from relais_orchestrator.access.auth import Caller
from relais_orchestrator.api.answering import PendingAnswer, open_answer
from relais_orchestrator.api.callers import caller_of
from relais_orchestrator.api.openai import objects
from relais_orchestrator.api.openai.formats import ChatFormat, CompletionFormat, Format, Identity
from relais_orchestrator.api.openai.frames import ChunkFrames
from relais_orchestrator.api.openai.objects import ModelList, ModelObject
from relais_orchestrator.app_keys import PARTS, Parts
from relais_orchestrator.batches.endpoints import Endpoint, Wait
from relais_orchestrator.http.responses import json_response
from relais_orchestrator.submission.drafts import Asked
from relais_orchestrator.submission.model_states import ModelState
from relais_orchestrator.submission.reading import Reading


async def chat_completions(request: web.Request) -> web.StreamResponse:
    """`POST /v1/chat/completions`, streaming or not."""
    return await _answer(request, Reading.CHAT, ChatFormat)


async def completions(request: web.Request) -> web.StreamResponse:
    """`POST /v1/completions`, streaming or not."""
    return await _answer(request, Reading.COMPLETION, CompletionFormat)


async def _answer(
    request: web.Request, route: Reading, shape_of: Callable[[Identity], Format]
) -> web.StreamResponse:
    with ExitStack() as open_request:
        asked, answer = await open_answer(request, route, open_request)
        shape = shape_of(_identity_of(answer.channel_id))
        frames = _frames(asked, shape) if asked.stream else None
        # It holds the prompt; a response may take minutes, and thousands may be open.
        del asked
        if frames is not None:
            return await answer.stream(request, frames)
        whole = await answer.whole()
        return json_response(shape.whole(whole), headers=whole.headers)


def _frames(asked: Asked, shape: Format) -> ChunkFrames:
    return ChunkFrames(
        shape, include_usage=asked.include_usage, continuous_usage=asked.continuous_usage
    )


def _identity_of(channel_id: str) -> Identity:
    """Return that of a response that begins now. As in vLLM, it has the model's own name, whichever alias was used."""
    return Identity(channel_id, channel_model(channel_id), int(time.time()))


def _line(
    shape_of: Callable[[Identity], Format], parts: Parts, caller: Caller, _: Asked, channel_id: str
) -> Wait:
    shape = shape_of(_identity_of(channel_id))
    answer = PendingAnswer(
        parts, channel_id, caller, on_disconnect=OnDisconnect.CONTINUE, repeatable=True
    )

    async def wait() -> bytes:
        return orjson.dumps(shape.whole(await answer.whole()))

    return wait


CHAT_LINES = Endpoint(Reading.CHAT, partial(_line, ChatFormat))
COMPLETION_LINES = Endpoint(Reading.COMPLETION, partial(_line, CompletionFormat))


async def list_models(request: web.Request) -> web.Response:
    """`GET /v1/models`: the models that the key may use, under all their names, with or without a worker."""
    caller = caller_of(request)
    parts = request.app[PARTS]
    states = await parts.model_states.all()
    data = [_model(parts, caller, name, states) for name in parts.catalogue.names_of(caller)]
    body: ModelList = {"object": "list", "data": data}
    return json_response(body)


async def show_model(request: web.Request) -> web.Response:
    """`GET /v1/models/{model}`: one model."""
    caller = caller_of(request)
    parts = request.app[PARTS]
    name = request.match_info["model"]
    parts.catalogue.root_of(name, caller)
    return json_response(_model(parts, caller, name, await parts.model_states.all()))


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
