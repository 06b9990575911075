"""`/v1/responses`: create, show, stream, cancel, delete; their input items; counting tokens."""

from __future__ import annotations

import asyncio
import time
from contextlib import ExitStack, aclosing
from functools import partial

import orjson
import structlog
from aiohttp import web

from relais_common.jobs.errors import (
    ChannelNotFound,
    InvalidRequest,
    LogRewound,
    PayloadTooLarge,
)
from relais_common.jobs.job import ChannelState, OnDisconnect, StopReason
from relais_orchestrator.access.auth import Caller
from relais_orchestrator.api.accepting import accept, read_asked
from relais_orchestrator.api.answering import PendingAnswer, Whole, details, no_answer, remains
from relais_orchestrator.api.callers import caller_of
from relais_orchestrator.api.channel_streams import Options, stream_resumably, wants_resumable
from relais_orchestrator.api.parsing import parse_query
from relais_orchestrator.api.responses.events import ResponseFrames
from relais_orchestrator.api.responses.finding import (
    FoundResponse,
    channel_of,
    check_position,
    find,
    history,
    not_found,
)
from relais_orchestrator.api.responses.objects import (
    DeletedResponse,
    InputTokens,
    ItemList,
    ResponseObject,
)
from relais_orchestrator.api.responses.schemas import INCLUDE, ItemsQuery, ResponseQuery
from relais_orchestrator.api.responses.showing import FIELDS, Shown, logprob, response_id
from relais_orchestrator.app_keys import PARTS, Parts
from relais_orchestrator.batches.endpoints import Endpoint, Wait
from relais_orchestrator.http.request_ids import call_by_channel
from relais_orchestrator.http.responses import json_response
from relais_orchestrator.streams import sse
from relais_orchestrator.submission.drafts import Asked
from relais_orchestrator.submission.reading import Reading
from relais_orchestrator.submission.responses import AskedResponse, Head, plain_head, record_of

log = structlog.get_logger(__name__)

CANCEL_WAIT_S = 2.0
"""How long a cancel waits for the worker that runs the request."""


async def _prepared(parts: Parts, caller: Caller, asked: Asked) -> AskedResponse:
    """Return what is asked with its images, with the conversation that it goes on from, and with what is kept of it.

    Raises:
        RelaisError: as `Images.check` and `history`; or it cannot be stored.
    """
    assert isinstance(asked, AskedResponse)
    settings = parts.settings.responses
    if asked.store and parts.responses is None:
        raise InvalidRequest(
            "store: this deployment has no database of responses (MONGODB_URL)",
            param="store",
            code="unsupported_value",
        )
    stores = settings.store if asked.store is None else asked.store
    # What is kept has the images: an address may show another one later, or none.
    draft = await parts.images.check(asked.draft, caller)
    if draft is not asked.draft:
        asked = asked.with_images_of(draft)
    chain: tuple[str, ...] = ()
    if asked.previous is not None:
        messages, chain = await history(parts, asked.previous, key_id=caller.key_id)
        asked = asked.after(messages)
    record = record_of(
        asked,
        created_at=int(time.time()),
        chain=chain,
        stored=stores and parts.responses is not None,
    )
    if record.stored and record.size_bytes > settings.max_bytes:
        raise PayloadTooLarge(
            f"input: more than {settings.max_bytes} bytes are not stored; send store: false",
            param="input",
        )
    return asked.with_record(record)


async def create(request: web.Request) -> web.StreamResponse:
    """`POST /v1/responses`, streaming or not, waiting or not."""
    parts = request.app[PARTS]
    resumable = wants_resumable(request)
    with ExitStack() as open_request:
        async with read_asked(request, Reading.RESPONSES) as (caller, body, read):
            assert isinstance(read, AskedResponse)
            waits = read.stream or not read.background
            if waits:
                open_request.enter_context(parts.drain.request())
                open_request.enter_context(parts.streams.of(caller.key_id))
            with FIELDS:
                asked = await _prepared(parts, caller, read)
                accepted = await accept(request, asked.draft, caller=caller, body=body)
        channel_id = accepted.channel_id
        found = None
        if accepted.duplicate:
            found = await find(parts, channel_id, key_id=caller.key_id)
        shown = found.shown if found is not None else _shown(asked, channel_id)
        if not waits:
            return json_response(shown.body("queued") if found is None else found.body)
        answer = PendingAnswer(
            parts,
            channel_id,
            caller,
            on_disconnect=asked.draft.on_disconnect,
            repeatable="Idempotency-Key" in request.headers,
        )
        streams = asked.stream
        # They hold the prompt; a response may take minutes, and thousands may be open.
        del asked, read, found
        if streams and resumable:
            check_key = partial(parts.key_ring.check, caller)
            return await stream_resumably(request, channel_id, check_key, "responses", {})
        with FIELDS:
            if streams:
                frames = ResponseFrames(shown)
                return await answer.stream(request, frames, resumable=shown.background)
            whole = await answer.whole()
        return json_response(await _completed(shown, whole), headers=whole.headers)


async def channel_frames(parts: Parts, state: ChannelState, _: Options) -> ResponseFrames:
    """Return the frames of a channel, for `format=responses`.

    What was not asked as a response has a response's defaults.
    """
    record = await parts.queue.record(state.channel_id)
    head = plain_head(state) if record is None else Head.read(record)
    stored = record is not None and record.stored
    return ResponseFrames(Shown(state.channel_id, head, stored=stored))


def _shown(asked: AskedResponse, channel_id: str) -> Shown:
    record = asked.draft.record
    assert record is not None
    return Shown(channel_id, Head.read(record), stored=record.stored)


async def _completed(shown: Shown, whole: Whole) -> ResponseObject:
    told = await details(whole.answers[0].tokens, logprob)
    return shown.ended(whole.completed, whole.text, told)


async def _line_prepared(parts: Parts, caller: Caller, asked: Asked) -> Asked:
    prepared = await _prepared(parts, caller, asked)
    if prepared.background:
        raise InvalidRequest(
            "background: all lines of a batch are answered in the background",
            param="background",
            code="unsupported_value",
        )
    return prepared


def _line(parts: Parts, caller: Caller, asked: Asked, channel_id: str) -> Wait:
    assert isinstance(asked, AskedResponse)
    shown = _shown(asked, channel_id)
    answer = PendingAnswer(
        parts, channel_id, caller, on_disconnect=OnDisconnect.CONTINUE, repeatable=True
    )

    async def wait() -> bytes:
        with FIELDS:
            return orjson.dumps(await _completed(shown, await answer.whole()))

    return wait


LINES = Endpoint(Reading.RESPONSES, _line, _line_prepared, FIELDS)


async def _own(request: web.Request) -> tuple[Caller, FoundResponse]:
    """Return the caller, and the response in the path, which is his. Raises ResponseNotFound, ResponsesUnavailable."""
    caller = caller_of(request)
    channel_id = channel_of(request.match_info["response_id"])
    found = await find(request.app[PARTS], channel_id, key_id=caller.key_id)
    if found is None:
        raise not_found()
    call_by_channel(request, channel_id)
    return caller, found


async def retrieve(request: web.Request) -> web.StreamResponse:
    """`GET /v1/responses/{response_id}`: as it stands, or its events."""
    caller, found = await _own(request)
    query = parse_query(ResponseQuery, request.query, lists=INCLUDE)
    if not query.stream:
        return json_response(found.body)
    parts = request.app[PARTS]
    after = -1 if query.starting_after is None else query.starting_after
    frames = ResponseFrames(found.shown, after=after)
    has_log = found.state is not None and await parts.follower.has_log(found.channel_id)
    if not has_log and after >= 0:
        raise InvalidRequest(
            "starting_after: the events of this response are no longer kept; get it without stream",
            param="starting_after",
            code="events_expired",
        )
    with parts.streams.of(caller.key_id):
        if found.state is not None and after >= 0:
            await check_position(parts, found.shown, found.state, after)
        if found.state is None:
            return await _replay(request, found, frames)
        answer = PendingAnswer(
            parts,
            found.channel_id,
            caller,
            on_disconnect=found.state.on_disconnect,
            repeatable=True,
        )
        return await answer.stream(request, frames, resumable=True)


async def _replay(
    request: web.Request, found: FoundResponse, frames: ResponseFrames
) -> web.StreamResponse:
    """Send the events of a response that only the database has: its answer comes at once."""
    assert found.outcome is not None
    out = sse.EventStream(
        request, write_timeout_s=request.app[PARTS].settings.streaming.write_timeout_s
    )
    await out.begin()
    events = remains(found.outcome, found.text)
    await out.write(frames.head() + frames.of(events))
    if (error := no_answer(found.outcome)) is not None:
        await out.write(frames.failure(error))
    await out.end()
    return out.response


async def cancel(request: web.Request) -> web.Response:
    """`POST /v1/responses/{response_id}/cancel`: it has ended, or its worker has been told."""
    caller, found = await _own(request)
    if not found.shown.background:
        raise InvalidRequest(
            "only a response with background: true can be cancelled; of another, close the connection",
            code="not_cancellable",
        )
    if found.outcome is None:
        parts = request.app[PARTS]
        await parts.queue.cancel(found.channel_id, StopReason.CLIENT)
        await _until_ended(parts, found)
        found = await find(parts, found.channel_id, key_id=caller.key_id) or found
    return json_response(found.body)


async def _until_ended(parts: Parts, found: FoundResponse) -> None:
    """Wait a moment for the end."""
    assert found.state is not None
    try:
        async with (
            asyncio.timeout(CANCEL_WAIT_S),
            aclosing(parts.follower.follow(found.channel_id, found.state.tail)) as seen,
        ):
            async for _ in seen:
                pass
    except (TimeoutError, ChannelNotFound, LogRewound):
        log.debug("cancel_not_awaited", channel_id=found.channel_id)


async def delete(request: web.Request) -> web.Response:
    """`DELETE /v1/responses/{response_id}`: nothing of it is left here; its trace stays."""
    caller, found = await _own(request)
    parts = request.app[PARTS]
    if found.outcome is None:
        await parts.queue.cancel(found.channel_id, StopReason.CLIENT)
    if parts.responses is not None:
        # First: a record on its way there finds that it was deleted.
        await parts.responses.delete(found.channel_id, key_id=caller.key_id)
    await parts.queue.forget(found.channel_id)
    body: DeletedResponse = {
        "id": response_id(found.channel_id),
        "object": "response",
        "deleted": True,
    }
    return json_response(body)


async def input_items(request: web.Request) -> web.Response:
    """`GET /v1/responses/{response_id}/input_items`: a page of them, the last first."""
    _, found = await _own(request)
    query = parse_query(ItemsQuery, request.query, lists=INCLUDE)
    items = found.shown.input_items(orjson.loads(found.record.input))
    if query.order == "desc":
        items.reverse()
    if query.after is not None:
        places = [at for at, one in enumerate(items) if one["id"] == query.after]
        if not places:
            raise InvalidRequest("after: no item has this id", param="after")
        items = items[places[0] + 1 :]
    page = items[: query.limit]
    body: ItemList = {
        "object": "list",
        "data": page,
        "first_id": page[0]["id"] if page else None,
        "last_id": page[-1]["id"] if page else None,
        "has_more": len(items) > len(page),
    }
    return json_response(body)


async def input_tokens(request: web.Request) -> web.Response:
    """`POST /v1/responses/input_tokens`: a worker counts, since only it has the model's tokenizer."""
    parts = request.app[PARTS]
    with ExitStack() as open_request:
        async with read_asked(request, Reading.RESPONSES_INPUT_TOKENS) as (caller, body, asked):
            assert isinstance(asked, AskedResponse)
            if asked.previous is not None:
                messages, _ = await history(parts, asked.previous, key_id=caller.key_id)
                asked = asked.after(messages)
            open_request.enter_context(parts.drain.request())
            open_request.enter_context(parts.streams.of(caller.key_id))
            with FIELDS:
                accepted = await accept(request, asked.draft, caller=caller, body=body)
        answer = PendingAnswer(
            parts,
            accepted.channel_id,
            caller,
            on_disconnect=OnDisconnect.CANCEL,
            repeatable="Idempotency-Key" in request.headers,
        )
        with FIELDS:
            whole = await answer.whole()
    count: InputTokens = {
        "object": "response.input_tokens",
        "input_tokens": len(orjson.loads(whole.text)),
    }
    return json_response(count)
