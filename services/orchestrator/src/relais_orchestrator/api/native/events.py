"""`GET /v1/channels/{channel_id}/events`: a channel as server-sent events, from any position."""

from __future__ import annotations

from contextlib import aclosing, nullcontext, suppress

import orjson
from aiohttp import web

from relais_common.jobs.errors import ChannelNotFound, InvalidRequest, KeyRevoked, LogRewound
from relais_common.jobs.events import Queued
from relais_common.jobs.job import ChannelState, OnDisconnect, Status
from relais_common.queue.codec import encode_event, split_event
from relais_common.queue.ports import LiveBatch
from relais_orchestrator.api.callers import KeyCheck, readable_channel
from relais_orchestrator.app_keys import PARTS
from relais_orchestrator.http.responses import error_body
from relais_orchestrator.streams import sse

MAX_SEQ_DIGITS = 12
RECONNECT_HINT = b"retry: 1000\n\n"


async def stream_events(request: web.Request) -> web.StreamResponse:
    """Stream everything after `Last-Event-ID`. A disconnected client resumes here or at another orchestrator."""
    parts = request.app[PARTS]
    state, check_key = await readable_channel(request)
    after = _last_event_id(request)
    if after > state.tail:
        raise LogRewound(
            f"the log has {state.tail} events; start again without Last-Event-ID",
            param="Last-Event-ID",
        )
    if state.status.is_terminal and after == state.tail:
        # There are no more events; 204 keeps a browser from reconnecting.
        return web.Response(status=204)
    stream = sse.EventStream(request, write_timeout_s=parts.settings.streaming.write_timeout_s)
    with parts.streams.of(state.key_id):
        await _stream(request, stream, state, after, check_key)
    return stream.response


async def _stream(
    request: web.Request,
    stream: sse.EventStream,
    state: ChannelState,
    after: int,
    check_key: KeyCheck,
) -> None:
    parts = request.app[PARTS]
    cancels = state.on_disconnect is OnDisconnect.CANCEL
    async with parts.watcher.watching(state.channel_id) if cancels else nullcontext():
        await stream.begin()
        stream.traffic.resumed += after > 0
        await stream.write(RECONNECT_HINT)
        with suppress(
            ChannelNotFound
        ):  # it has just gone for good, and no status can say so any more
            try:
                await _pump(request, stream, state.channel_id, after, check_key)
            except (LogRewound, KeyRevoked) as error:
                body = orjson.dumps(error_body(error.info))
                await stream.write(sse.named_frame(str(error.code).encode(), body))
    await stream.end()


async def _pump(
    request: web.Request,
    stream: sse.EventStream,
    channel_id: str,
    after: int,
    check_key: KeyCheck,
) -> None:
    parts = request.app[PARTS]
    async with aclosing(parts.follower.follow(channel_id, after)) as seen:
        async for one in seen:
            if isinstance(one, LiveBatch):
                await stream.write(sse.frames(one))
            elif one is None:
                if parts.drain.started:
                    return
                check_key()
                await stream.write(sse.KEEPALIVE)
            elif one.status is Status.QUEUED:
                await stream.write(place(one))
            elif one.status.is_terminal:
                await stream.write(compacted(one))


def place(state: ChannelState) -> bytes:
    """A frame with a waiting request's position. It is not in the log, so it has no id and is not resumed."""
    queued = Queued(state.queue_position, state.estimated_wait_s)
    return sse.named_frame(*split_event(encode_event(queued)))


def compacted(state: ChannelState) -> bytes:
    """Return the terminal event, with the whole text, of a channel whose log has expired."""
    name, data = split_event(state.outcome or b"failed {}")
    return sse.frame(state.tail, name, orjson.dumps({**orjson.loads(data), "text": state.text}))


def _last_event_id(request: web.Request) -> int:
    header, query = request.headers.get("Last-Event-ID"), request.query.get("last_event_id")
    for raw in filter(None, (header, query)):
        if not (raw.isascii() and raw.isdigit() and len(raw) <= MAX_SEQ_DIGITS):
            raise InvalidRequest("Last-Event-ID: not the id of an event", param="Last-Event-ID")
    # A reconnecting EventSource keeps its original URL, so the header is more recent.
    return int(header or query or "0")
