"""Turns a channel's events into the response to one open HTTP request."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, ExitStack, aclosing, nullcontext

import orjson
from aiohttp import web

from relais_common.jobs import errors
from relais_common.jobs.channels import channel_model
from relais_common.jobs.chat import parts_of
from relais_common.jobs.errors import (
    Draining,
    EndedOtherwise,
    ErrorInfo,
    KeyRevoked,
    LogRewound,
    RelaisError,
)
from relais_common.jobs.events import (
    Cancelled,
    Completed,
    Event,
    Expired,
    Failed,
    Restarted,
    Started,
    Token,
    TokenLogprob,
)
from relais_common.jobs.job import ChannelState, OnDisconnect
from relais_common.queue.codec import decode_event
from relais_common.queue.ports import LiveBatch
from relais_common.runtime.garbage import forget_frames
from relais_orchestrator.access.auth import Caller
from relais_orchestrator.api.accepting import accept
from relais_orchestrator.api.openai.formats import Format, Identity
from relais_orchestrator.api.openai.frames import Frames
from relais_orchestrator.app_keys import PARTS, Parts
from relais_orchestrator.http.bodies import read_asked
from relais_orchestrator.http.reading import Reading
from relais_orchestrator.http.responses import error_body, json_response
from relais_orchestrator.streams import sse
from relais_orchestrator.submission.drafts import Asked

QUEUE_MS = "X-Relais-Queue-Ms"

QUEUED = 1
"""The event after which a response begins; it has no counterpart in OpenAI's API."""

LEFT = (asyncio.CancelledError, ConnectionError, Draining, KeyRevoked)
"""Errors raised if nobody waits for the response any more."""

_Whole = tuple[str, list[TokenLogprob], Completed]


class PendingAnswer:
    """Follows one channel for the client that waits for it. Keeps nothing of the request, which may be large.

    Args:
        shape: format of the response; None if only `whole` is used.
        stream: whether to send chunks as they come.
        on_disconnect: what happens to the job when the client leaves.
        caller: sender of the request; the response ends if its key is revoked.
        repeatable: the request has an `Idempotency-Key`: others may wait for this channel too, or come back for it,
            so its end is left to the watcher's lease, which runs out once nobody reads.
    """

    __slots__ = (
        "_accepted_s", "_caller", "_continuous_usage", "_include_usage", "_on_disconnect", "_parts", "_repeatable",
        "_shape", "_stream", "channel_id",
    )  # fmt: skip

    def __init__(
        self,
        parts: Parts,
        channel_id: str,
        shape: Format | None,
        caller: Caller,
        *,
        stream: bool = False,
        include_usage: bool = False,
        continuous_usage: bool = False,
        on_disconnect: OnDisconnect,
        repeatable: bool,
    ) -> None:
        self._parts = parts
        self.channel_id = channel_id
        self._shape = shape
        self._caller = caller
        self._stream = stream
        self._include_usage = include_usage
        self._continuous_usage = continuous_usage
        self._on_disconnect = on_disconnect
        self._repeatable = repeatable
        self._accepted_s = asyncio.get_running_loop().time()

    async def give(self, request: web.Request) -> web.StreamResponse:
        """Send the response: whole at the end, or in chunks, whose headers follow once the engine accepts the request.

        Raises:
            RelaisError: the request did not complete. Once headers are sent, an error chunk ends the
                stream instead.
        """
        assert self._shape is not None
        if not self._stream:
            text, tokens, completed = await self.whole()
            return json_response(
                self._shape.whole(text, completed, tokens or None),
                headers={QUEUE_MS: str(int(completed.timings.queue_s * 1000))},
            )
        try:
            async with self._watched():
                return await self._pump(request, self._shape)
        except LEFT:
            await self._leave()
            raise

    async def json(self) -> bytes:
        """Wait for the end and return the whole response's JSON. Raises RelaisError as `whole` does."""
        assert self._shape is not None
        text, tokens, completed = await self.whole()
        return orjson.dumps(self._shape.whole(text, completed, tokens or None))

    async def whole(self) -> _Whole:
        """Wait for the end and return the whole text, its token details and the last event.

        Raises:
            RelaisError: the request did not complete.
        """
        try:
            async with self._watched():
                return await self._collect()
        except LEFT:
            await self._leave()
            raise

    def _watched(self) -> AbstractAsyncContextManager[None]:
        """Register as the job's reader while the client is connected."""
        if self._on_disconnect is OnDisconnect.CONTINUE:
            return nullcontext()
        return self._parts.watcher.watching(self.channel_id)

    async def _leave(self) -> None:
        """Handle a client that leaves early: the job may be stopped."""
        if self._on_disconnect is OnDisconnect.CANCEL and not self._repeatable:
            await self._parts.submitter.stop(self.channel_id)

    async def _collect(self) -> _Whole:
        while True:
            try:
                return await self._collect_once()
            except LogRewound:
                # Nothing of the lost part was sent, so the log's current answer applies.
                continue

    async def _collect_once(self) -> _Whole:
        reading = _Reading(self._parts, self._caller)
        text: list[str] = []
        tokens: list[TokenLogprob] = []
        async with aclosing(self._parts.follower.follow(self.channel_id, QUEUED)) as seen:
            async for one in seen:
                for event in reading.events(one):
                    if isinstance(event, Token):
                        text.append(event.text)
                        if event.logprobs is not None:
                            tokens += event.logprobs
                    elif isinstance(event, Restarted):
                        text.clear()
                        tokens.clear()
                    elif isinstance(event, Completed):
                        return "".join(text), tokens, event
                    elif (error := _no_answer(event)) is not None:
                        raise error
        raise EndedOtherwise(ErrorInfo("the stream ended without a result"))

    async def _pump(self, request: web.Request, shape: Format) -> web.StreamResponse:
        out = sse.EventStream(
            request, write_timeout_s=self._parts.settings.streaming.write_timeout_s
        )
        frames = Frames(
            shape, include_usage=self._include_usage, continuous_usage=self._continuous_usage
        )
        reading = _Reading(self._parts, self._caller)
        try:
            async with aclosing(self._parts.follower.follow(self.channel_id, QUEUED)) as seen:
                async for one in seen:
                    # Do not keep a reference while waiting for the next ones.
                    await self._write(out, frames, reading.events(one), silence=one is None)
        except RelaisError as error:
            if not out.begun:
                raise
            forget_frames(error)
            await out.write(sse.data_frame(orjson.dumps(error_body(error.info))))
            if isinstance(error, LEFT):
                await self._leave()
        await out.end()
        return out.response

    async def _write(
        self, out: sse.EventStream, frames: Frames, events: list[Event], *, silence: bool
    ) -> None:
        """Send all events of a batch in one write. Raises RelaisError if the request did not complete."""
        if not events and not silence:
            return
        error = _no_answer(events[-1]) if events else None
        if error is None or len(events) > 1:
            data = frames.of(events) if events else sse.KEEPALIVE
            if not out.begun:
                # `started`, or a silence long enough that a proxy might give up.
                headers: dict[str, str] = {}
                if events and isinstance(events[0], Started):
                    waited_s = asyncio.get_running_loop().time() - self._accepted_s
                    headers[QUEUE_MS] = str(int(waited_s * 1000))
                await out.begin(headers)
                data = frames.head() + data
            if data:
                await out.write(data)
        if error is not None:
            raise error


def identity_of(channel_id: str) -> Identity:
    """Return that of a response that begins now. As in vLLM, it has the model's own name, whichever alias was used."""
    return Identity(channel_id, channel_model(channel_id), int(time.time()))


async def open_answer(
    request: web.Request,
    route: Reading,
    open_request: ExitStack,
    shape_of: Callable[[Identity], Format] | None = None,
) -> tuple[Asked, PendingAnswer]:
    """Queue what the body asks for. The request counts as open, and as its key's stream, until `open_request` ends.

    Raises:
        RelaisError: as `read_asked` and `accept`.
    """
    parts = request.app[PARTS]
    async with read_asked(request, route) as (caller, body, asked):
        open_request.enter_context(parts.drain.request())
        open_request.enter_context(parts.streams.of(caller.key_id))
        accepted = await accept(request, asked.draft, caller=caller, body=body)
    channel_id = accepted.channel_id
    answer = PendingAnswer(
        parts,
        channel_id,
        None if shape_of is None else shape_of(identity_of(channel_id)),
        caller,
        stream=asked.stream,
        include_usage=asked.include_usage,
        continuous_usage=asked.continuous_usage,
        on_disconnect=asked.draft.on_disconnect,
        repeatable="Idempotency-Key" in request.headers,
    )
    return asked, answer


class _Reading:
    """Decodes the events that a follower returns."""

    __slots__ = ("_caller", "_parts", "_said", "_text_length")

    def __init__(self, parts: Parts, caller: Caller) -> None:
        self._parts = parts
        self._caller = caller
        self._text_length = 0
        self._said = False

    def events(self, one: LiveBatch | ChannelState | None) -> list[Event]:
        """Return the events of a batch, or what is left of them if the log has expired; none after a silence.

        Raises:
            Draining, KeyRevoked: noticed after a silence.
        """
        if isinstance(one, LiveBatch):
            events = [decode_event(line) for line in one.lines]
            self._text_length += sum(len(one.text) for one in events if isinstance(one, Token))
            self._said = self._said or any(
                one.says_something for one in events if isinstance(one, Token)
            )
            return events
        if one is None:
            if self._parts.drain.over:
                raise Draining("this server is shutting down; send the request again")
            self._parts.key_ring.check(self._caller)
            return []
        if not one.status.is_terminal:
            return []
        outcome = decode_event(one.outcome or b"")
        rest = Token((one.text or "")[self._text_length :], ())
        if not self._said and isinstance(outcome, Completed) and outcome.message is not None:
            rest.reasoning = outcome.message.reasoning or ""
            rest.tool_calls = parts_of(outcome.message.tool_calls)
        return [rest, outcome]


def _no_answer(event: Event) -> RelaisError | None:
    """Return the error for an end other than `completed`; None for any other event."""
    match event:
        case Failed(error):
            return EndedOtherwise(error)
        case Cancelled():
            return errors.RequestCancelled("the request was cancelled")
        case Expired():
            return errors.RequestExpired("the request's deadline passed", param="deadline_s")
    return None
