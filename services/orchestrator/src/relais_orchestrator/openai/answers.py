"""A channel's events as the answer to one open HTTP request."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager

import orjson
from aiohttp import web

from relais_common import errors
from relais_common.errors import (
    Draining,
    EndedOtherwise,
    ErrorInfo,
    KeyRevoked,
    LogRewound,
    RelaisError,
)
from relais_common.events import (
    Cancelled,
    Completed,
    Event,
    Expired,
    Failed,
    Started,
    Token,
    TokenLogprob,
)
from relais_common.jobs import OnDisconnect
from relais_common.wire.codec import decode_event
from relais_orchestrator import sse
from relais_orchestrator.app_keys import Parts
from relais_orchestrator.auth import Caller
from relais_orchestrator.openai.formats import Format
from relais_orchestrator.openai.frames import Frames
from relais_orchestrator.responses import error_body, json_response

QUEUE_MS = "X-Relais-Queue-Ms"


class Answer:
    """Follows one channel for one client that waits for it.

    Args:
        on_disconnect: what becomes of the job when the client leaves.
        caller: whose request it is; the answer ends where its key is revoked.
        repeatable: the request has an `Idempotency-Key`: others may wait for this channel too, or come back for it,
            so its end is left to the watcher's lease, which runs out once nobody reads.
    """

    def __init__(
        self,
        parts: Parts,
        channel_id: str,
        on_disconnect: OnDisconnect,
        caller: Caller,
        *,
        repeatable: bool,
    ) -> None:
        self._parts = parts
        self._channel_id = channel_id
        self._on_disconnect = on_disconnect
        self._caller = caller
        self._repeatable = repeatable
        self._accepted_s = asyncio.get_running_loop().time()

    async def collect(self, shape: Format) -> web.Response:
        """Wait for the end and answer with the whole.

        Raises:
            RelaisError: the request ended otherwise than completed.
        """
        async with self._attended():
            while True:
                try:
                    return await self._collect_once(shape)
                except LogRewound:
                    # Nothing of what was lost has been sent: the answer is the one that the log has now.
                    continue

    async def _collect_once(self, shape: Format) -> web.Response:
        text: list[str] = []
        tokens: list[TokenLogprob] = []
        async with aclosing(self._batches()) as batches:
            async for events in batches:
                for event in events:
                    if isinstance(event, Token):
                        text.append(event.text)
                        if event.logprobs is not None:
                            tokens += event.logprobs
                    elif isinstance(event, Completed):
                        return json_response(
                            shape.whole("".join(text), event, tokens or None),
                            headers={QUEUE_MS: str(int(event.timings.queue_s * 1000))},
                        )
                    elif (error := _no_answer(event)) is not None:
                        raise error
        raise EndedOtherwise(ErrorInfo("the stream ended without a result"))

    async def stream(
        self, request: web.Request, shape: Format, *, include_usage: bool
    ) -> web.StreamResponse:
        """Answer with chunks as they come. Headers leave once the engine has accepted the request.

        Raises:
            RelaisError: before the headers have left; after that, an error chunk ends the stream.
        """
        out = sse.EventStream(
            request,
            write_timeout_s=self._parts.settings.streaming.write_timeout_s,
        )
        try:
            async with self._attended():
                try:
                    await self._pump(out, Frames(shape, include_usage=include_usage))
                except RelaisError as error:
                    if out.response.prepared:
                        await out.write(sse.data_frame(orjson.dumps(error_body(error.info))))
                    raise
        except RelaisError:
            if not out.response.prepared:
                raise
        await out.end()
        return out.response

    async def _pump(self, out: sse.EventStream, frames: Frames) -> None:
        async with aclosing(self._batches()) as batches:
            async for events in batches:
                error = _no_answer(events[-1]) if events else None
                if error is None or len(events) > 1:
                    await self._write(out, frames, events)
                if error is not None:
                    raise error

    async def _write(self, out: sse.EventStream, frames: Frames, events: list[Event]) -> None:
        """Everything that came together leaves in one write."""
        data = frames.of(events) if events else sse.KEEPALIVE
        if not out.response.prepared:
            # `started`, or a silence long enough that a proxy might give up.
            if events and isinstance(events[0], Started):
                waited_s = asyncio.get_running_loop().time() - self._accepted_s
                out.response.headers[QUEUE_MS] = str(int(waited_s * 1000))
            await out.begin()
            data = frames.head() + data
        if data:
            await out.write(data)

    async def _batches(self) -> AsyncGenerator[list[Event]]:
        """Events from `started` on, as they come together; none in silences."""
        position, text_length = 1, 0  # 1 is `queued`, which has no counterpart here
        async with aclosing(self._parts.follower.follow(self._channel_id, position)) as batches:
            async for batch in batches:
                if batch is not None:
                    events = [decode_event(line) for line in batch.lines]
                    position += len(events)
                    text_length += sum(len(one.text) for one in events if isinstance(one, Token))
                    yield events
                    continue
                if self._parts.drain.over:
                    raise Draining("this server is shutting down; send the request again")
                self._parts.key_ring.check(self._caller)
                now = await self._parts.glance(self._channel_id)
                if now is not None and await self._parts.is_compacted(now, position):
                    rest = Token((now.text or "")[text_length:], ())
                    yield [rest, decode_event(now.outcome or b"")]
                    return
                yield []

    @asynccontextmanager
    async def _attended(self) -> AsyncIterator[None]:
        """While the client is there the job has a reader; when it leaves early, the job may be stopped."""
        if self._on_disconnect is OnDisconnect.CONTINUE:
            yield
            return
        try:
            async with self._parts.watcher.watching(self._channel_id):
                yield
        except (asyncio.CancelledError, ConnectionError, Draining, KeyRevoked):
            if not self._repeatable:
                await self._parts.intake.stop(self._channel_id)
            raise


def _no_answer(event: Event) -> RelaisError | None:
    """What the client is told of an end that is no answer; None for any other event."""
    match event:
        case Failed(error):
            return EndedOtherwise(error)
        case Cancelled():
            return errors.Cancelled("the request was cancelled")
        case Expired():
            return errors.Expired("the request's deadline passed", param="deadline_s")
    return None
