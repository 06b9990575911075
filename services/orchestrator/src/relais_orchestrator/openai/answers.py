"""A channel's events as the answer to one open HTTP request."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager

import orjson
import structlog
from aiohttp import web

from relais_common.errors import Draining, EndedOtherwise, ErrorInfo, LogRewound, RelaisError
from relais_common.events import Cancelled, Completed, Event, Expired, Failed, Token
from relais_common.jobs import OnDisconnect
from relais_common.wire.codec import decode_event
from relais_orchestrator import sse
from relais_orchestrator.app_keys import Parts
from relais_orchestrator.openai.formats import Format
from relais_orchestrator.responses import json_response

log = structlog.get_logger(__name__)

DONE = sse.data_frame(b"[DONE]")


class Answer:
    """Follows one channel for one client that waits for it.

    Args:
        on_disconnect: what becomes of the job when the client leaves.
        repeatable: the request has an `Idempotency-Key`: others may wait for this channel too, or come back for it,
            so its end is left to the watcher's lease, which runs out once nobody reads.
    """

    def __init__(
        self, parts: Parts, channel_id: str, on_disconnect: OnDisconnect, *, repeatable: bool
    ) -> None:
        self._parts = parts
        self._channel_id = channel_id
        self._on_disconnect = on_disconnect
        self._repeatable = repeatable

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
        async with aclosing(self._events()) as events:
            async for event in events:
                if isinstance(event, Token):
                    text.append(event.text)
                elif isinstance(event, Completed):
                    return json_response(
                        shape.whole("".join(text), event),
                        headers={"X-Request-Id": self._channel_id},
                    )
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
            headers={"X-Request-Id": self._channel_id},
        )
        try:
            async with self._attended():
                try:
                    await self._pump(out, shape, include_usage)
                except RelaisError as error:
                    if out.response.prepared:
                        await out.write(sse.data_frame(orjson.dumps(error.info.body())))
                    raise
        except RelaisError:
            if not out.response.prepared:
                raise
        await out.end()
        return out.response

    async def _pump(self, out: sse.EventStream, shape: Format, include_usage: bool) -> None:
        async with aclosing(self._events()) as events:
            async for event in events:
                if not out.response.prepared:
                    # `started`, or a silence long enough that a proxy might give up.
                    await out.begin()
                    if (head := shape.head()) is not None:
                        await out.write(sse.data_frame(orjson.dumps(head)))
                if event is None:
                    await out.write(sse.KEEPALIVE)
                elif isinstance(event, Token) and event.text:
                    await out.write(sse.data_frame(orjson.dumps(shape.text(event.text))))
                elif isinstance(event, Completed):
                    last = [orjson.dumps(shape.finish(event.finish_reason))]
                    if include_usage:
                        last.append(orjson.dumps(shape.usage(event.usage)))
                    await out.write(b"".join(map(sse.data_frame, last)) + DONE)

    async def _events(self) -> AsyncGenerator[Event | None]:
        """Events from `started` on, None in silences; an end that is no answer is raised."""
        position, text_length = 1, 0  # 1 is `queued`, which has no counterpart here
        async with aclosing(self._parts.follower.follow(self._channel_id, position)) as batches:
            async for batch in batches:
                if batch is None:
                    if self._parts.drain.over:
                        raise Draining("this server is shutting down; send the request again")
                    now = await self._parts.glance(self._channel_id)
                    if now is not None and await self._parts.is_compacted(now, position):
                        yield Token((now.text or "")[text_length:], ())
                        yield _answer(decode_event(now.outcome or b""))
                        return
                    yield None
                    continue
                for line in batch.lines:
                    event = _answer(decode_event(line))
                    position += 1
                    if isinstance(event, Token):
                        text_length += len(event.text)
                    yield event

    @asynccontextmanager
    async def _attended(self) -> AsyncIterator[None]:
        """While the client is there the job has a reader; when it leaves early, the job may be stopped."""
        if self._on_disconnect is OnDisconnect.CONTINUE:
            yield
            return
        try:
            async with self._parts.watcher.watching(self._channel_id):
                yield
        except (asyncio.CancelledError, ConnectionError, Draining):
            if not self._repeatable:
                await self._parts.intake.stop(self._channel_id)
            raise


def _answer(event: Event) -> Event:
    """The event, unless it is an end that is no answer.

    Raises:
        EndedOtherwise: with what the client is told of that end.
    """
    match event:
        case Failed(error):
            raise EndedOtherwise(error)
        case Cancelled():
            raise EndedOtherwise(
                ErrorInfo(
                    "the request was cancelled", "invalid_request_error", None, "cancelled", 409
                )
            )
        case Expired():
            raise EndedOtherwise(
                ErrorInfo(
                    "the request's deadline passed", "timeout_error", "deadline_s", "expired", 504
                )
            )
    return event
