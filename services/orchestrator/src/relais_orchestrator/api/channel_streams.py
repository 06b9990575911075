"""Streams a channel from any position, in the words of some API. Any server goes on where another one stopped.

Frames depend on the log alone, so that their ids mean the same at every server.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextlib import aclosing, nullcontext, suppress
from dataclasses import dataclass
from typing import Literal, Protocol
from urllib.parse import urlencode

from aiohttp import web

from relais_common.jobs.errors import (
    ChannelNotFound,
    InvalidRequest,
    KeyRevoked,
    LogRewound,
    RelaisError,
)
from relais_common.jobs.events import Event, Queued, Restarted
from relais_common.jobs.job import ChannelState, OnDisconnect, Status
from relais_common.queue.codec import decode_event, encode_event, split_event
from relais_common.queue.ports import LiveBatch
from relais_orchestrator.api.answering import Frames, left_of, no_answer
from relais_orchestrator.api.callers import KeyCheck
from relais_orchestrator.app_keys import PARTS, Parts
from relais_orchestrator.streams import sse

MAX_SEQ_DIGITS = 12
MAX_PART_DIGITS = 6
RECONNECT_HINT = b"retry: 1000\n"
"""It belongs to the first frame."""

RESUMABLE = "resumable"
STREAM = "X-Relais-Stream"
"""The request header that asks for a stream with ids."""

EVENTS_URL = "X-Relais-Events-Url"
"""The response header that says where such a stream goes on."""

StreamName = Literal["native", "openai", "anthropic", "responses"]
"""What streams may be written as."""

Options = Mapping[str, bool]
"""What a stream was asked to tell, as its query string has it."""

StreamFormat = Callable[[Parts, ChannelState, Options], Awaitable[Frames]]
"""Makes the frames of a channel in the words of one API. Raises StoreUnavailable."""

STREAM_FORMATS: web.AppKey[Mapping[str, StreamFormat]] = web.AppKey("stream_formats")
"""Those of all APIs but the native one, by name."""


@dataclass(frozen=True, slots=True)
class Position:
    """What a client has: all events up to `seq`, or of that event the first `part` frames alone."""

    seq: int = 0
    part: int | None = None

    @property
    def events(self) -> int:
        """How many events it has wholly."""
        return self.seq if self.part is None else max(0, self.seq - 1)

    def has(self, seq: int, part: int) -> bool:
        """Return whether the client has this frame of this event."""
        return seq < self.seq or (seq == self.seq and (self.part is None or part <= self.part))


class Rendering(Protocol):
    """The frames of one stream.

    Attributes:
        after: the number of the event before the first one to be read.
        keepalive: what is sent in a silence.
    """

    after: int

    @property
    def keepalive(self) -> bytes: ...

    def batch(self, batch: LiveBatch) -> bytes:
        """Return the frames of these events. Raises LogRewound if they have none in this API."""
        ...

    def compacted(self, state: ChannelState) -> bytes:
        """Return what is told of a channel that has ended and whose log has expired."""
        ...

    def failure(self, error: RelaisError) -> bytes:
        """Return the frame, without an id, that says why a stream ends here."""
        ...


class NumberedFrames:
    """The frames of an API, each with an id: the number of its event, and before the last of an event `.` and a count.

    Args:
        frames: of the whole stream; those that the client has are made and left out.
    """

    after = 0

    def __init__(self, frames: Frames, position: Position) -> None:
        self._frames = frames
        self._position = position
        self._begun = False

    @property
    def keepalive(self) -> bytes:
        kept = self._frames.keepalive
        return sse.KEEPALIVE_LINE if kept is sse.KEEPALIVE else kept

    def failure(self, error: RelaisError) -> bytes:
        return self._frames.failure(error)

    def batch(self, batch: LiveBatch) -> bytes:
        return b"".join(
            self._numbered(seq, self._of(decode_event(line)))
            for seq, line in enumerate(batch.lines, batch.first_seq)
        )

    def compacted(self, state: ChannelState) -> bytes:
        if self._begun or self._position.seq:
            raise LogRewound("the log has expired; the result is at GET /v1/channels/{channel_id}")
        return self._numbered(state.tail, b"".join(map(self._of, left_of(state))))

    def _of(self, event: Event) -> bytes:
        if isinstance(event, Queued):
            return _place(event) + self._frames.of([event])
        if (error := no_answer(event)) is not None:
            return self._frames.failure(error)
        if isinstance(event, Restarted):
            raise LogRewound(
                "the answer began again after its worker died; read it as native events"
            )
        head = b"" if self._begun else self._frames.head()
        self._begun = True
        return head + self._frames.of([event])

    def _numbered(self, seq: int, frames: bytes) -> bytes:
        parts = frames.split(b"\n\n")[:-1]
        return b"".join(
            b"id: %d%b\n%b\n\n" % (seq, b"" if place == len(parts) else b".%d" % place, part)
            for place, part in enumerate(parts, 1)
            if not self._position.has(seq, place)
        )


def _place(queued: Queued) -> bytes:
    """Return a frame with a waiting request's position."""
    return sse.named_frame(*split_event(encode_event(queued)))


def wants_resumable(request: web.Request) -> bool:
    """Return whether the request asks for a stream with ids. Raises InvalidRequest if it asks for something else."""
    wanted = request.headers.get(STREAM)
    if wanted not in (None, RESUMABLE):
        raise InvalidRequest(f"{STREAM}: only {RESUMABLE} is known", param=STREAM)
    return wanted is not None


async def stream_resumably(
    request: web.Request,
    channel_id: str,
    check_key: KeyCheck,
    name: StreamName,
    options: Options,
) -> web.StreamResponse:
    """Send the stream of a request that was just queued, so that it can go on at `GET /v1/channels/{id}/events`.

    Headers leave at once: what fails after that is told in the stream.

    Raises:
        ChannelNotFound: the store no longer has the request.
    """
    parts = request.app[PARTS]
    state = await parts.queue.state(channel_id)
    if state is None:
        raise ChannelNotFound("the request is no longer known", param="channel_id")
    query = {"format": name, **{one: "true" for one, on in options.items() if on}}
    query["token"] = parts.signer.sign(channel_id)
    path = f"{parts.settings.proxy.root_path}/v1/channels/{channel_id}/events"
    frames = await request.app[STREAM_FORMATS][name](parts, state, options)
    rendering = NumberedFrames(frames, Position())
    stream = sse.EventStream(request, write_timeout_s=parts.settings.streaming.write_timeout_s)
    headers = {EVENTS_URL: f"{path}?{urlencode(query)}"}
    await stream_channel(request, stream, state, rendering, check_key, headers)
    return stream.response


async def stream_channel(
    request: web.Request,
    stream: sse.EventStream,
    state: ChannelState,
    rendering: Rendering,
    check_key: KeyCheck,
    headers: Mapping[str, str] | None = None,
) -> None:
    """Write the frames of a channel until it ends, the key is revoked or this server drains."""
    parts = request.app[PARTS]
    cancels = state.on_disconnect is OnDisconnect.CANCEL
    async with parts.watcher.watching(state.channel_id) if cancels else nullcontext():
        await stream.begin(headers)
        await stream.write(RECONNECT_HINT)
        with suppress(
            ChannelNotFound
        ):  # it has just gone for good, and no status can say so any more
            try:
                await _pump(request, stream, state.channel_id, rendering, check_key)
            except (LogRewound, KeyRevoked) as error:
                await stream.write(rendering.failure(error))
    await stream.end()


async def _pump(
    request: web.Request,
    stream: sse.EventStream,
    channel_id: str,
    rendering: Rendering,
    check_key: KeyCheck,
) -> None:
    parts = request.app[PARTS]
    async with aclosing(parts.follower.follow(channel_id, rendering.after)) as seen:
        async for one in seen:
            if isinstance(one, LiveBatch):
                if data := rendering.batch(one):
                    await stream.write(data)
            elif one is None:
                if parts.drain.started:
                    return
                check_key()
                await stream.write(rendering.keepalive)
            elif one.status is Status.QUEUED:
                # It is not in the log, so it has no id and is not resumed.
                await stream.write(_place(Queued(one.queue_position, one.estimated_wait_s)))
            elif one.status.is_terminal:
                await stream.write(rendering.compacted(one))


def option(request: web.Request, name: str) -> bool:
    """Return a parameter of the query string that is `true` or `false`. Raises InvalidRequest."""
    given = request.query.get(name, "false")
    if given not in ("true", "false"):
        raise InvalidRequest(f"{name}: true or false", param=name)
    return given == "true"
