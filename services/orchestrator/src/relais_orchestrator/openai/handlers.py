"""`/v1/chat/completions`, `/v1/completions`, `/v1/models`."""

from __future__ import annotations

import time
from collections.abc import Mapping

from aiohttp import web

from relais_common.channels import channel_model
from relais_orchestrator import rate_headers
from relais_orchestrator.access import caller_of
from relais_orchestrator.app_keys import PARTS, Parts
from relais_orchestrator.auth import Caller
from relais_orchestrator.bodies import parse_body, read_body
from relais_orchestrator.intake import Draft
from relais_orchestrator.model_states import ModelState
from relais_orchestrator.openai.answers import Answer
from relais_orchestrator.openai.formats import ChatFormat, CompletionFormat, Format, Identity
from relais_orchestrator.request_ids import call_by_channel
from relais_orchestrator.responses import json_response
from relais_orchestrator.schemas.completions import ModelList, ModelObject
from relais_orchestrator.schemas.openai import ChatCompletionRequest, CompletionRequest

Wanted = ChatCompletionRequest | CompletionRequest


async def chat_completions(request: web.Request) -> web.StreamResponse:
    """A chat, streamed or whole."""
    caller = caller_of(request)
    body = await read_body(request)
    wanted = parse_body(ChatCompletionRequest, body)
    draft = Draft(
        model=wanted.model,
        messages=tuple(turn.to_message() for turn in wanted.messages),
        prompt=None,
        sampling=wanted.to_sampling(
            max_tokens=wanted.max_completion_tokens, logprobs=wanted.told_logprobs
        ),
        priority=wanted.priority,
        deadline_s=wanted.deadline_s,
        on_disconnect=wanted.on_disconnect,
    )
    return await _answer(request, caller, body, wanted, draft, ChatFormat)


async def completions(request: web.Request) -> web.StreamResponse:
    """A text completion, streamed or whole."""
    caller = caller_of(request)
    body = await read_body(request)
    wanted = parse_body(CompletionRequest, body)
    draft = Draft(
        model=wanted.model,
        messages=None,
        prompt=_prompt(wanted.prompt),
        sampling=wanted.to_sampling(logprobs=wanted.logprobs),
        priority=wanted.priority,
        deadline_s=wanted.deadline_s,
        on_disconnect=wanted.on_disconnect,
    )
    return await _answer(request, caller, body, wanted, draft, CompletionFormat)


def _prompt(prompt: str | list[int] | list[str]) -> str | tuple[int, ...]:
    if isinstance(prompt, str):
        return prompt
    texts = [part for part in prompt if isinstance(part, str)]
    return texts[0] if texts else tuple(part for part in prompt if isinstance(part, int))


async def _answer(
    request: web.Request,
    caller: Caller,
    body: bytes,
    wanted: Wanted,
    draft: Draft,
    shape_of: type[ChatFormat] | type[CompletionFormat],
) -> web.StreamResponse:
    parts = request.app[PARTS]
    idempotency_key = request.headers.get("Idempotency-Key")
    with parts.drain.request(), parts.streams.of(caller.key_id):
        accepted = await parts.intake.accept(
            draft, caller=caller, idempotency_key=idempotency_key, body=body
        )
        call_by_channel(request, accepted.channel_id)
        rate_headers.note(request, accepted.buckets)
        # As vLLM does with its names: the answer says the model's own, whichever was asked for.
        model = channel_model(accepted.channel_id)
        identity = Identity(accepted.channel_id, model, int(time.time()))
        shape: Format = shape_of(identity)
        answer = Answer(
            parts,
            accepted.channel_id,
            wanted.on_disconnect,
            caller,
            repeatable=idempotency_key is not None,
        )
        if wanted.stream:
            return await answer.stream(request, shape, include_usage=wanted.include_usage)
        return await answer.collect(shape)


async def list_models(request: web.Request) -> web.Response:
    """The models that the key may use, by every name they have, whether or not a worker runs them now."""
    caller = caller_of(request)
    parts = request.app[PARTS]
    states = await parts.model_states.all()
    data = [_model(parts, caller, name, states) for name in parts.catalogue.names_of(caller)]
    body: ModelList = {"object": "list", "data": data}
    return json_response(body)


async def show_model(request: web.Request) -> web.Response:
    """One of them."""
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
    body: ModelObject = {
        "id": name,
        "object": "model",
        "created": parts.started_at_s,
        "owned_by": "relais",
        "root": root,
        "max_model_len": None if state is None else state.max_model_len,
    }
    if state is not None:
        body["relais"] = {
            "state": state.state,
            "workers": state.workers,
            "capacity": state.capacity,
            "running": state.running,
            "waiting": state.waiting,
            "estimated_wait_s": state.estimated_wait_s,
        }
    return body
