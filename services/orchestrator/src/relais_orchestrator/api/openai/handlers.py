"""`/v1/chat/completions`, `/v1/completions`."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial

import orjson
from aiohttp import web

from relais_common.jobs.channels import channel_model
from relais_common.jobs.errors import InvalidRequest
from relais_common.jobs.job import ChannelState, OnDisconnect, Operation
from relais_orchestrator.access.auth import Caller
from relais_orchestrator.api.answering import PendingAnswer, open_answer
from relais_orchestrator.api.callers import caller_of
from relais_orchestrator.api.channel_streams import (
    STREAM,
    Options,
    stream_resumably,
    wants_resumable,
)
from relais_orchestrator.api.openai.formats import (
    ChatFormat,
    CompletionFormat,
    Format,
    Identity,
    Shown,
)
from relais_orchestrator.api.openai.frames import ChunkFrames
from relais_orchestrator.app_keys import PARTS, Parts
from relais_orchestrator.batches.endpoints import Endpoint, Wait
from relais_orchestrator.http.responses import json_response
from relais_orchestrator.submission.drafts import Asked
from relais_orchestrator.submission.reading import Reading


async def chat_completions(request: web.Request) -> web.StreamResponse:
    """`POST /v1/chat/completions`, streaming or not."""
    return await _answer(request, Reading.CHAT, ChatFormat, resumable=wants_resumable(request))


async def completions(request: web.Request) -> web.StreamResponse:
    """`POST /v1/completions`, streaming or not."""
    return await _answer(request, Reading.COMPLETION, CompletionFormat)


async def _answer(
    request: web.Request,
    route: Reading,
    shape_of: Callable[[Identity, Shown], Format],
    *,
    resumable: bool = False,
) -> web.StreamResponse:
    with ExitStack() as open_request:
        asked, answer = await open_answer(request, route, open_request)
        if asked.stream and resumable:
            options = {
                "include_usage": asked.include_usage,
                "continuous_usage_stats": asked.continuous_usage,
                "return_token_ids": _shown(asked).token_ids,
            }
            if asked.begins:
                # What the message said is not in the log, so no other server could repeat it.
                await request.app[PARTS].submitter.stop(answer.channel_id)
                raise InvalidRequest(f"echo: not with {STREAM}", param="echo")
            del asked
            check_key = partial(request.app[PARTS].key_ring.check, caller_of(request))
            return await stream_resumably(request, answer.channel_id, check_key, "openai", options)
        shape = shape_of(_identity_of(answer.channel_id), _shown(asked))
        frames = _frames(asked, shape) if asked.stream else None
        # It holds the prompt; a response may take minutes, and thousands may be open.
        del asked
        if frames is not None:
            return await answer.stream(request, frames)
        whole = await answer.whole()
        return json_response(await shape.whole(whole), headers=whole.headers)


def _frames(asked: Asked, shape: Format) -> ChunkFrames:
    return ChunkFrames(
        shape,
        include_usage=asked.include_usage,
        continuous_usage=asked.continuous_usage,
        answers=asked.draft.answers,
    )


def _shown(asked: Asked) -> Shown:
    prompting, chat = asked.draft.prompting, asked.draft.chat
    return Shown(
        # Those of reasoning would tell what it is.
        token_ids=prompting.return_token_ids and chat.include_reasoning,
        echo=prompting.echo,
        logprobs=asked.tells_logprobs,
        begins=asked.begins,
        n=asked.draft.n,
    )


async def channel_frames(_: Parts, state: ChannelState, options: Options) -> ChunkFrames:
    """Return the frames of a channel, for `format=openai`."""
    shape_of = ChatFormat if state.operation is Operation.CHAT else CompletionFormat
    identity = Identity(state.channel_id, state.model, int(state.accepted_at_s))
    return ChunkFrames(
        shape_of(identity, Shown(token_ids=options.get("return_token_ids", False))),
        include_usage=options.get("include_usage", False),
        continuous_usage=options.get("continuous_usage_stats", False),
    )


def _identity_of(channel_id: str) -> Identity:
    """Return that of a response that begins now. As in vLLM, it has the model's own name, whichever alias was used."""
    return Identity(channel_id, channel_model(channel_id), int(time.time()))


def _line(
    shape_of: Callable[[Identity, Shown], Format],
    parts: Parts,
    caller: Caller,
    asked: Asked,
    channel_id: str,
) -> Wait:
    shape = shape_of(_identity_of(channel_id), _shown(asked))
    answer = PendingAnswer(
        parts, channel_id, caller, on_disconnect=OnDisconnect.CONTINUE, repeatable=True
    )

    async def wait() -> bytes:
        return orjson.dumps(await shape.whole(await answer.whole()))

    return wait


CHAT_LINES = Endpoint(Reading.CHAT, partial(_line, ChatFormat))
COMPLETION_LINES = Endpoint(Reading.COMPLETION, partial(_line, CompletionFormat))
