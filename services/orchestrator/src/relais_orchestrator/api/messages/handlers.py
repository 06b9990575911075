"""`/v1/messages` and `/v1/messages/count_tokens`."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial

import orjson
from aiohttp import web

from relais_common.jobs.job import ChannelState
from relais_orchestrator.api.answering import open_answer
from relais_orchestrator.api.callers import caller_of
from relais_orchestrator.api.channel_streams import Options, stream_resumably, wants_resumable
from relais_orchestrator.api.messages.errors import FIELDS
from relais_orchestrator.api.messages.formats import whole_message
from relais_orchestrator.api.messages.frames import MessageFrames
from relais_orchestrator.api.messages.objects import TokenCount
from relais_orchestrator.app_keys import PARTS, Parts
from relais_orchestrator.http.responses import json_response
from relais_orchestrator.submission.reading import Reading


async def create_message(request: web.Request) -> web.StreamResponse:
    """`POST /v1/messages`, streaming or not."""
    resumable = wants_resumable(request)
    with ExitStack() as open_request:
        asked, answer = await open_answer(request, Reading.MESSAGES, open_request, FIELDS)
        stream = asked.stream
        # It holds the prompt; a response may take minutes, and thousands may be open.
        del asked
        if stream and resumable:
            check_key = partial(request.app[PARTS].key_ring.check, caller_of(request))
            return await stream_resumably(request, answer.channel_id, check_key, "anthropic", {})
        with FIELDS:
            if stream:
                return await answer.stream(request, MessageFrames(answer.channel_id))
            whole = await answer.whole()
        body = whole_message(answer.channel_id, whole)
        return json_response(body, headers=whole.headers)


async def count_tokens(request: web.Request) -> web.Response:
    """`POST /v1/messages/count_tokens`: a worker counts, since only it has the model's tokenizer."""
    with ExitStack() as open_request:
        _, answer = await open_answer(request, Reading.COUNT_TOKENS, open_request, FIELDS)
        with FIELDS:
            whole = await answer.whole()
    body: TokenCount = {"input_tokens": len(orjson.loads(whole.text))}
    return json_response(body)


async def channel_frames(_: Parts, state: ChannelState, __: Options) -> MessageFrames:
    """Return the frames of a channel, for `format=anthropic`."""
    return MessageFrames(state.channel_id)
