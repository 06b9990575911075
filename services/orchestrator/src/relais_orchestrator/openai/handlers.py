"""`/v1/chat/completions`, `/v1/completions`, `/v1/models`."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

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


@dataclass(frozen=True, slots=True)
class _Asked:
    """One request, with its prompt three times over. It goes once it is in the queue."""

    caller: Caller
    body: bytes
    wanted: ChatCompletionRequest | CompletionRequest
    draft: Draft


async def chat_completions(request: web.Request) -> web.StreamResponse:
    """A chat, streamed or whole."""
    parts, asked = request.app[PARTS], await _read_chat(request)
    with parts.drain.request(), parts.streams.of(asked.caller.key_id):
        answer = await _accept(request, asked, ChatFormat)
        del asked  # an answer may take minutes, and thousands be on their way
        return await answer.give(request)


async def completions(request: web.Request) -> web.StreamResponse:
    """A text completion, streamed or whole."""
    parts, asked = request.app[PARTS], await _read_completion(request)
    with parts.drain.request(), parts.streams.of(asked.caller.key_id):
        answer = await _accept(request, asked, CompletionFormat)
        del asked  # as above
        return await answer.give(request)


async def _read_chat(request: web.Request) -> _Asked:
    caller = caller_of(request)
    body = await read_body(request)
    wanted = parse_body(ChatCompletionRequest, body)
    draft = Draft(
        model=wanted.model,
        messages=tuple(turn.to_message() for turn in wanted.messages),
        chat_template_kwargs=wanted.chat_template_kwargs,
        prompt=None,
        sampling=wanted.to_sampling(
            max_tokens=wanted.max_completion_tokens, logprobs=wanted.told_logprobs
        ),
        priority=wanted.priority,
        deadline_s=wanted.deadline_s,
        on_disconnect=wanted.on_disconnect,
    )
    return _Asked(caller, body, wanted, draft)


async def _read_completion(request: web.Request) -> _Asked:
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
    return _Asked(caller, body, wanted, draft)


def _prompt(prompt: str | list[int] | list[str] | list[list[int]]) -> str | tuple[int, ...]:
    if isinstance(prompt, str):
        return prompt
    (first, *_) = prompt
    if isinstance(first, str):
        return first
    ids = prompt if isinstance(first, int) else first
    return tuple(one for one in ids if isinstance(one, int))


async def _accept(
    request: web.Request, asked: _Asked, shape_of: Callable[[Identity], Format]
) -> Answer:
    """Queue what is asked; all that is needed from then on."""
    parts, wanted = request.app[PARTS], asked.wanted
    idempotency_key = request.headers.get("Idempotency-Key")
    accepted = await parts.intake.accept(
        asked.draft, caller=asked.caller, idempotency_key=idempotency_key, body=asked.body
    )
    call_by_channel(request, accepted.channel_id)
    rate_headers.note(request, accepted.buckets)
    # As vLLM does with its names: the answer says the model's own, whichever was asked for.
    model = channel_model(accepted.channel_id)
    identity = Identity(accepted.channel_id, model, int(time.time()))
    return Answer(
        parts,
        accepted.channel_id,
        shape_of(identity),
        asked.caller,
        stream=bool(wanted.stream),
        include_usage=wanted.include_usage,
        on_disconnect=wanted.on_disconnect,
        repeatable=idempotency_key is not None,
    )


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
