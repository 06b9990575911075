"""`GET /v1/channels/{channel_id}/events`: a channel as server-sent events, from any position."""

from __future__ import annotations

import re
from typing import get_args

import orjson
from aiohttp import web

from relais_common.jobs.errors import InvalidRequest, LogRewound, RelaisError
from relais_common.jobs.job import ChannelState, Operation
from relais_common.queue.codec import split_event
from relais_common.queue.ports import LiveBatch
from relais_orchestrator.api.callers import readable_channel
from relais_orchestrator.api.channel_streams import (
    MAX_PART_DIGITS,
    MAX_SEQ_DIGITS,
    STREAM_FORMATS,
    NumberedFrames,
    Position,
    Rendering,
    StreamName,
    option,
    stream_channel,
)
from relais_orchestrator.app_keys import PARTS
from relais_orchestrator.http.responses import error_body
from relais_orchestrator.streams import sse

EVENT_ID_FORM = rf"^([0-9]{{1,{MAX_SEQ_DIGITS}}}(\.[0-9]{{1,{MAX_PART_DIGITS}}})?)?$"
_EVENT_ID = re.compile(rf"([0-9]{{1,{MAX_SEQ_DIGITS}}})(?:\.([0-9]{{1,{MAX_PART_DIGITS}}}))?")
OPTIONS = ("include_usage", "continuous_usage_stats", "return_token_ids")
_WRITTEN = (Operation.CHAT, Operation.TEXT_COMPLETION)
"""What other APIs can tell the events of."""


async def stream_events(request: web.Request) -> web.StreamResponse:
    """Stream everything after `Last-Event-ID`. A disconnected client resumes here or at another orchestrator."""
    parts = request.app[PARTS]
    state, check_key = await readable_channel(request)
    position = _position(request)
    rendering = await _rendering(request, state, position)
    if position.seq > state.tail:
        raise LogRewound(
            f"the log has {state.tail} events; start again without Last-Event-ID",
            param="Last-Event-ID",
        )
    if state.status.is_terminal and position.events == state.tail:
        # There are no more events; 204 keeps a browser from reconnecting.
        return web.Response(status=204)
    stream = sse.EventStream(request, write_timeout_s=parts.settings.streaming.write_timeout_s)
    stream.traffic.resumed += position.seq > 0
    with parts.streams.of(state.key_id):
        await stream_channel(request, stream, state, rendering, check_key)
    return stream.response


class _NativeFrames:
    """The events themselves, with their numbers as ids."""

    keepalive = sse.KEEPALIVE

    def __init__(self, after: int) -> None:
        self.after = after

    def batch(self, batch: LiveBatch) -> bytes:
        return sse.frames(batch)

    def compacted(self, state: ChannelState) -> bytes:
        """Return the terminal event, with the whole text."""
        name, data = split_event(state.outcome or b"failed {}")
        return sse.frame(state.tail, name, orjson.dumps({**orjson.loads(data), "text": state.text}))

    def failure(self, error: RelaisError) -> bytes:
        return sse.named_frame(str(error.code).encode(), orjson.dumps(error_body(error.info)))


async def _rendering(request: web.Request, state: ChannelState, position: Position) -> Rendering:
    """Return the frames in the format that the query string names. Raises InvalidRequest."""
    name = request.query.get("format", "native")
    if name not in get_args(StreamName):
        raise InvalidRequest(f"format: one of {', '.join(get_args(StreamName))}", param="format")
    options = {one: option(request, one) for one in OPTIONS}
    if name == "native":
        if position.part is not None:
            raise _no_event()
        return _NativeFrames(position.seq)
    if state.operation not in _WRITTEN:
        raise InvalidRequest(f"format: {state.operation} has native events only", param="format")
    frames = await request.app[STREAM_FORMATS][name](request.app[PARTS], state, options)
    return NumberedFrames(frames, position)


def _position(request: web.Request) -> Position:
    header, query = request.headers.get("Last-Event-ID"), request.query.get("last_event_id")
    found = [_EVENT_ID.fullmatch(raw) for raw in filter(None, (header, query))]
    if None in found:
        raise _no_event()
    if not found or found[0] is None:
        return Position()
    # A reconnecting EventSource keeps its original URL, so the header is more recent.
    seq, part = found[0].groups()
    return Position(int(seq), None if part is None else int(part))


def _no_event() -> InvalidRequest:
    return InvalidRequest("Last-Event-ID: not the id of an event", param="Last-Event-ID")
