"""Feeds a batch's lines into the queue, as there is room, and stores how each ends."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from datetime import datetime
from typing import Any

import msgspec
import orjson
import structlog

from relais_common.config.api_keys import COSTLY_STRUCTURES, ApiKey
from relais_common.jobs.channels import line_channel_id, queue_of
from relais_common.jobs.errors import (
    ChannelNotFound,
    Draining,
    ErrorInfo,
    FilesUnavailable,
    InternalError,
    KeyRevoked,
    KeyStorageFull,
    PayloadTooLarge,
    QueueFull,
    RateLimited,
    RelaisError,
    RequestCancelled,
    RequestExpired,
    StorageFull,
    StoreUnavailable,
    TooManyInFlight,
    TracesFull,
)
from relais_common.jobs.job import StopReason
from relais_common.runtime.backoff import Backoff
from relais_common.runtime.lifecycle import pause
from relais_orchestrator.access.auth import Caller
from relais_orchestrator.batches.endpoints import Wait
from relais_orchestrator.batches.lines import Line, custom_id_of, input_lines, read_line
from relais_orchestrator.batches.parts import BatchParts
from relais_orchestrator.batches.store import Document, LineResult, Usage
from relais_orchestrator.files.store import StoredFile
from relais_orchestrator.http.responses import error_body

log = structlog.get_logger(__name__)

WAIT = (
    QueueFull,
    TooManyInFlight,
    RateLimited,
    StorageFull,
    KeyStorageFull,
    TracesFull,
    StoreUnavailable,
)
"""Refusals of a line that may be queued later."""

RETRY_S = 0.5
LONGEST_RETRY_S = 10.0
"""Between two tries of a line whose key is out of tokens: its limits may change."""

LONG_WAIT_S = 60.0
STORE_EVERY_S = 0.1
ENDED_AT_ONCE = 5000
LEAST_INFLIGHT = 16
MAX_RESULT_BYTES = 15 << 20
"""A document of MongoDB has 16 MiB at most."""

NOT_RUN = {
    "cancelled": {
        "code": "batch_cancelled",
        "message": "This request was not executed, because the batch was cancelled.",
    },
    "expired": {
        "code": "batch_expired",
        "message": "This request could not be executed before the completion window expired.",
    },
}
"""Errors of lines without a response, by the end of their batch."""


_ANYTHING = ApiKey(digests=(), structured_outputs=frozenset(COSTLY_STRUCTURES))
"""Rights with which what is in the queue already is read again."""


class _Details(msgspec.Struct):
    cached_tokens: int = 0
    reasoning_tokens: int = 0


class _Usage(msgspec.Struct):
    prompt_tokens: int = 0
    completion_tokens: int = 0
    prompt_tokens_details: _Details | None = None
    completion_tokens_details: _Details | None = None


class _Used(msgspec.Struct):
    usage: _Usage | None = None


_USED = msgspec.json.Decoder(_Used)


class Feeder:
    """The lines of one batch while this orchestrator holds it.

    Attributes:
        completed, failed: lines that have a result.
    """

    def __init__(
        self,
        parts: BatchParts,
        batch: Document,
        file: StoredFile,
    ) -> None:
        self._parts = parts
        self._batch_id: str = batch["_id"]
        self._key_id: str = batch["key_id"]
        self._path: str = batch["endpoint"]
        self._endpoint = parts.endpoints[self._path]
        self._model: str = batch["model"]
        self._shards: list[int] = batch.get("shards") or [0]
        self._expires_at: datetime = batch["expires_at"]
        self._total: int = batch["counts"]["total"]
        self._ended = bytearray(batch["last_line"] + 1)
        self._file = file
        # None: it has a result that is not stored yet.
        self._inflight: dict[int, asyncio.Task[None] | None] = {}
        self._results: list[LineResult] = []
        self._changed = asyncio.Event()
        self._stopped: StopReason | None = None
        # When the line that waits was refused first.
        self._refused_s: float | None = None
        self._retry_after_s = 0.0
        self.completed = 0
        self.failed = 0

    @property
    def _is_stopped(self) -> bool:
        return self._stopped is not None

    @property
    def waits_long(self) -> bool:
        """Whether nothing of the batch is in flight, and it waits over a minute: so far, and as long as it was told."""
        if self._refused_s is None or self._inflight or self._is_stopped:
            return False
        return time.monotonic() - self._refused_s + self._retry_after_s > LONG_WAIT_S

    def stop(self, reason: StopReason) -> None:
        """Feed no more; what is in flight is asked to end."""
        self._stopped = self._stopped or reason
        self._changed.set()

    async def run(self) -> None:
        """Return once every line has a result, or, after `stop`, once nothing of it is in flight.

        Raises:
            FilesUnavailable, FileNotKnown: the input cannot be read.
            KeyRevoked: the key has gone.
        """
        await self._read_ended()
        storing = asyncio.create_task(self._store_results())
        try:
            while self.completed + self.failed < self._total and self._stopped is None:
                await self._feed_once()
                await self._wait_for(lambda: not self._inflight)
            if self._stopped is not None:
                await self._end_inflight()
        finally:
            tasks = [storing, *filter(None, self._inflight.values())]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _read_ended(self) -> None:
        last = 0
        while page := await self._parts.store.ended_lines(
            self._batch_id, after=last, limit=ENDED_AT_ONCE
        ):
            for number, ok in page:
                self._note_ended(number, ok)
            last = page[-1][0]

    def _note_ended(self, number: int, ok: bool) -> None:
        self._ended[number] = 1
        self.completed += ok
        self.failed += not ok

    def _lines(self) -> AsyncIterator[tuple[int, bytes | None]]:
        return input_lines(self._parts, self._file)

    async def _feed_once(self) -> None:
        """Feed every line that is neither in flight nor ended. Some may have been lost when this returns."""
        async for number, text in self._lines():
            if number >= len(self._ended) or self._ended[number] or number in self._inflight:
                continue
            caller = self._parts.shared.key_ring.client(self._key_id)
            try:
                line = await read_line(self._parts, self._path, caller, text)
            except RelaisError as error:
                # It was valid; the key's rights or the deployment's models have changed.
                self._note_result(number, custom_id_of(text), error=error)
                continue
            await self._enter(number, line)
            if self._stopped is not None:
                return

    async def _enter(self, number: int, line: Line) -> None:
        """Queue a line, once there is room. Raises KeyRevoked."""
        while self._stopped is None:
            room = await self._room()
            await self._wait_for(lambda: len(self._inflight) < room)  # noqa: B023
            if self._is_stopped:
                return
            left_s = self._expires_at.timestamp() - time.time()
            # Its limits may have changed while the line waited.
            caller = self._parts.shared.key_ring.client(self._key_id)
            # What ends or stops meanwhile counts.
            self._changed.clear()
            try:
                with self._endpoint.fields:
                    accepted = await self._parts.shared.submitter.feed(
                        line.asked.draft,
                        caller=caller,
                        channel_id=self._channel_of(number),
                        deadline_s=max(1.0, left_s),
                        most=-(-self._parts.shared.settings.batches.inflight // len(self._shards)),
                    )
            except WAIT as refused:
                log.debug("batch_waits", batch_id=self._batch_id, code=refused.code)
                await self._wait_after(refused)
            except RelaisError as error:
                if isinstance(error, Draining):
                    raise
                self._refused_s = None
                self._note_result(number, line.custom_id, error=error)
                return
            else:
                self._refused_s = None
                self._follow(number, line, caller, accepted.channel_id)
                return

    def _channel_of(self, number: int) -> str:
        queue = queue_of(self._model, self._shards[number % len(self._shards)])
        return line_channel_id(queue, self._batch_id, number)

    async def _wait_after(self, refused: RelaisError) -> None:
        """Wait until the line may be tried again, or something has ended or stopped."""
        if self._refused_s is None:
            self._refused_s = time.monotonic()
        self._retry_after_s = 0.0
        if isinstance(refused, RateLimited):
            self._retry_after_s = refused.retry_after_s or 0.0
        await pause(self._changed, min(LONGEST_RETRY_S, max(RETRY_S, self._retry_after_s)))

    async def _room(self) -> int:
        """Return how many lines may be in flight: enough that no worker runs dry."""
        state = (await self._parts.shared.model_states.all()).get(self._model)
        capacity = 0 if state is None else state.capacity
        return min(self._parts.shared.settings.batches.inflight, max(LEAST_INFLIGHT, 2 * capacity))

    def _follow(self, number: int, line: Line, caller: Caller, channel_id: str) -> None:
        answer = self._endpoint.answer(self._parts.shared, caller, line.asked, channel_id)
        task = asyncio.create_task(self._await_end(number, line.custom_id, channel_id, answer))
        self._inflight[number] = task

    async def _await_end(self, number: int, custom_id: str, channel_id: str, answer: Wait) -> None:
        try:
            body = await answer()
        except (Draining, KeyRevoked, ChannelNotFound) as error:
            # It goes on without us, or is fed again.
            log.debug("batch_line_left", channel_id=channel_id, code=error.code)
            self._leave(number)
        except RelaisError as error:
            self._note_result(number, custom_id, channel_id, error=error)
        except Exception:
            log.exception("batch_line_crashed", channel_id=channel_id)
            crashed = InternalError("something went wrong on our side")
            self._note_result(number, custom_id, channel_id, error=crashed)
        else:
            if len(body) <= MAX_RESULT_BYTES:
                self._note_result(number, custom_id, channel_id, body=body)
                return
            too_large = PayloadTooLarge(
                "the response is too large for a batch: ask for less in a line"
            )
            self._note_result(number, custom_id, channel_id, error=too_large)

    def _leave(self, number: int) -> None:
        self._inflight.pop(number, None)
        self._changed.set()

    def _note_result(
        self,
        number: int,
        custom_id: str,
        channel_id: str = "",
        *,
        body: bytes | None = None,
        error: RelaisError | None = None,
    ) -> None:
        text = result_line(
            request_id=channel_id or f"{self._batch_id}-{number}",
            custom_id=custom_id,
            body=body,
            error=None if error is None else error.info,
            not_run=self._why_not_run(error),
        )
        usage = (0, 0, 0, 0) if body is None else usage_of(body)
        self._results.append(LineResult(number, error is None, text, usage))
        self._inflight.setdefault(number, None)

    def _why_not_run(self, error: RelaisError | None) -> str | None:
        if self._stopped is not None and isinstance(error, RequestCancelled):
            return "cancelled" if self._stopped is StopReason.CLIENT else "expired"
        return "expired" if isinstance(error, RequestExpired) else None

    async def _store_results(self) -> None:
        """Store results as they come; until one is stored, its line counts as in flight."""
        backoff = Backoff()
        while True:
            await asyncio.sleep(STORE_EVERY_S)
            if not self._results:
                continue
            stored = self._results.copy()
            try:
                await self._parts.store.add_results(
                    self._batch_id, stored, expires_at=self._expires_at
                )
            except FilesUnavailable:
                await backoff.pause()
                continue
            backoff.reset()
            del self._results[: len(stored)]
            for one in stored:
                if not self._ended[one.line]:
                    self._note_ended(one.line, one.ok)
                self._leave(one.line)

    async def _wait_for(self, is_true: Callable[[], bool]) -> None:
        while not is_true() and self._stopped is None:
            self._changed.clear()
            await self._changed.wait()

    async def _end_inflight(self) -> None:
        """Have what is in the queue end, also what an earlier holder put there, and wait for it.

        Lines are fed in order, so those behind a long row of lines that nobody knows were never fed.
        """
        unknown, most = 0, 2 * self._parts.shared.settings.batches.inflight
        async for number, text in self._lines():
            if number >= len(self._ended) or unknown > most:
                break
            if self._ended[number]:
                continue
            channel_id = self._channel_of(number)
            if await self._cancel(channel_id):
                unknown = 0
                if number not in self._inflight:
                    caller = Caller(self._key_id, _ANYTHING)
                    await self._adopt(number, text, caller, channel_id)
            elif number not in self._inflight:
                unknown += 1
        while self._inflight:
            self._changed.clear()
            await self._changed.wait()

    async def _adopt(
        self, number: int, text: bytes | None, caller: Caller, channel_id: str
    ) -> None:
        try:
            line = await read_line(self._parts, self._path, caller, text)
        except RelaisError as error:
            self._note_result(number, custom_id_of(text), channel_id, error=error)
            return
        self._follow(number, line, caller, channel_id)

    async def _cancel(self, channel_id: str) -> bool:
        """Return whether the channel is known."""
        while True:
            try:
                return (
                    await self._parts.shared.queue.cancel(channel_id, StopReason.CLIENT) is not None
                )
            except StoreUnavailable:
                await asyncio.sleep(RETRY_S)


def usage_of(body: bytes) -> Usage:
    """Return the tokens that a response names."""
    try:
        used = _USED.decode(body).usage or _Usage()
    except msgspec.DecodeError:
        used = _Usage()
    cached, reasoning = used.prompt_tokens_details, used.completion_tokens_details
    return (
        used.prompt_tokens,
        cached.cached_tokens if cached else 0,
        used.completion_tokens,
        reasoning.reasoning_tokens if reasoning else 0,
    )


def result_line(
    *,
    request_id: str,
    custom_id: str,
    body: bytes | None = None,
    error: ErrorInfo | None = None,
    not_run: str | None = None,
) -> bytes:
    """Return a line of an output or error file, in OpenAI's form.

    Args:
        not_run: the end of the batch, if the request got no response.
    """
    response: dict[str, Any] | None = None
    if not_run is None:
        response = {
            "status_code": 200 if error is None else error.status,
            "request_id": request_id,
            "body": error_body(error) if error is not None else orjson.Fragment(body or b"null"),
        }
    line = {
        "id": f"batch_req_{request_id}",
        "custom_id": custom_id,
        "response": response,
        "error": None if not_run is None else NOT_RUN[not_run],
    }
    return orjson.dumps(line) + b"\n"
