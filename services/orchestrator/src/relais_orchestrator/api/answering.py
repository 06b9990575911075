"""Follows a channel for one open HTTP request, whose response is in the words of some API.

A dialect brings `Frames` for streams, and makes its whole response of `Whole`.
"""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    ExitStack,
    aclosing,
    nullcontext,
)
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import orjson
from aiohttp import web

from relais_common.jobs import errors
from relais_common.jobs.chat import Message, ToolCall, parts_of
from relais_common.jobs.errors import (
    Draining,
    EndedOtherwise,
    ErrorInfo,
    KeyRevoked,
    LogRewound,
    RelaisError,
)
from relais_common.jobs.events import (
    AnswerEnd,
    Cancelled,
    Completed,
    Event,
    Expired,
    Failed,
    Prompt,
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
from relais_orchestrator.api.accepting import accept, read_asked
from relais_orchestrator.app_keys import PARTS, Parts
from relais_orchestrator.streams import sse
from relais_orchestrator.submission.drafts import Asked
from relais_orchestrator.submission.reading import Reading

QUEUE_MS = "X-Relais-Queue-Ms"

QUEUED = 1
"""The event after which a response begins; it has no counterpart in other APIs."""

DETAILS_AT_ONCE = 128
"""Tokens whose details become JSON in one turn of the event loop: with twenty candidates each, in some 7 ms."""

LEFT = (asyncio.CancelledError, ConnectionError, Draining, KeyRevoked)
"""Errors raised if nobody waits for the response any more."""


Known = TypeVar("Known")
Detail = TypeVar("Detail")


async def details(tokens: Sequence[Known], show: Callable[[Known], Detail]) -> list[Detail]:
    """Return what a response shows of its tokens; each stands there as JSON, since all may be a million candidates."""
    shown: list[Any] = []
    for at in range(0, len(tokens), DETAILS_AT_ONCE):
        part = tokens[at : at + DETAILS_AT_ONCE]
        shown += [orjson.Fragment(orjson.dumps(show(one))) for one in part]
        await asyncio.sleep(0)
    return shown


@dataclass(slots=True)
class WholeAnswer:
    """One answer of a completed request.

    Attributes:
        text: of all its tokens; `end.message` is the answer where it is more than that.
        tokens: details of each token; empty if not requested.
        end: how it ended; set once it has.
    """

    text: str = ""
    tokens: list[TokenLogprob] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)
    end: AnswerEnd | Completed | None = None


@dataclass(frozen=True, slots=True)
class Whole:
    """All that a completed request has.

    Attributes:
        answers: in order of their index.
        prompts: where requested, as the engine had them.
    """

    answers: Sequence[WholeAnswer]
    completed: Completed
    prompts: Mapping[int, Prompt] = field(default_factory=dict)

    @property
    def text(self) -> str:
        """Return the text of the only answer, or the first."""
        return self.answers[0].text

    @property
    def headers(self) -> dict[str, str]:
        """Return the headers of a response with it."""
        return {QUEUE_MS: str(int(self.completed.timings.queue_s * 1000))}


class Frames(Protocol):
    """One stream in the words of an API.

    Attributes:
        keepalive: what is sent in a silence.
    """

    keepalive: bytes

    def head(self) -> bytes:
        """Return the frames that precede all events."""
        ...

    def of(self, events: Iterable[Event]) -> bytes:
        """Return the frames of these events; empty if they have none. Other ends than `completed` come to `failure`."""
        ...

    def failure(self, error: RelaisError) -> bytes:
        """Return the frames that end a stream without its answer.

        Args:
            error: how the request ended; or why its stream ends sooner: `Draining`, `KeyRevoked`, `LogRewound`.
        """
        ...


class PendingAnswer:
    """Follows one channel for the client that waits for it. Keeps nothing of the request, which may be large.

    Args:
        on_disconnect: what happens to the job when the client leaves.
        caller: sender of the request; the response ends if its key is revoked.
        repeatable: others may wait for this channel too, or come back for it (the request has an `Idempotency-Key`), so
            its end is left to the watcher's lease, which runs out once nobody reads.
        is_new: the acceptance has just informed the store of this reader.
    """

    __slots__ = (
        "_accepted_s", "_caller", "_is_new", "_on_disconnect", "_parts", "_repeatable", "channel_id",
    )  # fmt: skip

    def __init__(
        self,
        parts: Parts,
        channel_id: str,
        caller: Caller,
        *,
        on_disconnect: OnDisconnect,
        repeatable: bool,
        is_new: bool = False,
    ) -> None:
        self._parts = parts
        self.channel_id = channel_id
        self._caller = caller
        self._on_disconnect = on_disconnect
        self._repeatable = repeatable
        self._is_new = is_new
        self._accepted_s = asyncio.get_running_loop().time()

    async def stream(
        self, request: web.Request, frames: Frames, *, resumable: bool = False
    ) -> web.StreamResponse:
        """Send the answer as it comes.

        Args:
            resumable: its client can come back for the rest. Headers and head leave now, not only when the engine has
                accepted the request, and the stream ends as soon as this server drains.

        Raises:
            RelaisError: the request did not complete. Once headers are sent, `frames.failure` ends the stream instead.
        """
        try:
            async with self._watched():
                return await self._pump(request, frames, resumable=resumable)
        except LEFT:
            await self._leave()
            raise

    async def whole(self) -> Whole:
        """Wait for the end and return the whole answer.

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
        return self._parts.watcher.watching(self.channel_id, is_told=self._is_new)

    async def _leave(self) -> None:
        """Handle a client that leaves early: the job may be stopped."""
        if self._on_disconnect is OnDisconnect.CANCEL and not self._repeatable:
            await self._parts.submitter.stop(self.channel_id)

    async def _collect(self) -> Whole:
        while True:
            try:
                return await self._collect_once()
            except LogRewound:
                # Nothing of the lost part was sent, so the log's current answer applies.
                continue

    async def _collect_once(self) -> Whole:
        reading = _Reading(self._parts, self._caller)
        texts: defaultdict[int, list[str]] = defaultdict(list)
        answers: defaultdict[int, WholeAnswer] = defaultdict(WholeAnswer)
        prompts: dict[int, Prompt] = {}
        async with aclosing(self._parts.follower.follow(self.channel_id, QUEUED)) as seen:
            async for one in seen:
                for event in reading.events(one):
                    if isinstance(event, Token):
                        texts[event.index].append(event.text)
                        answers[event.index].token_ids += event.token_ids
                        answers[event.index].tokens += event.logprobs or ()
                    elif isinstance(event, Prompt):
                        prompts[event.index] = event
                    elif isinstance(event, Restarted):
                        texts.clear()
                        answers.clear()
                    elif isinstance(event, Completed):
                        ends: Sequence[AnswerEnd | Completed] = event.answers or (event,)
                        for index, end in enumerate(ends):
                            answers[index].text = "".join(texts[index])
                            answers[index].end = end
                        ordered = [answers[index] for index in sorted(answers)]
                        return Whole(ordered, event, prompts)
                    elif (error := no_answer(event)) is not None:
                        raise error
        raise EndedOtherwise(ErrorInfo("the stream ended without a result"))

    async def _pump(
        self, request: web.Request, frames: Frames, *, resumable: bool
    ) -> web.StreamResponse:
        out = sse.EventStream(
            request, write_timeout_s=self._parts.settings.streaming.write_timeout_s
        )
        reading = _Reading(self._parts, self._caller, resumable=resumable)
        if resumable:
            await out.begin()
            await out.write(frames.head())
        try:
            async with aclosing(self._parts.follower.follow(self.channel_id, QUEUED)) as seen:
                async for one in seen:
                    # Do not keep a reference while waiting for the next ones.
                    await self._write(out, frames, reading.events(one), silence=one is None)
        except RelaisError as error:
            if not out.begun:
                raise
            forget_frames(error)
            await out.write(frames.failure(error))
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
        error = no_answer(events[-1]) if events else None
        if error is None or len(events) > 1:
            head = b"" if out.begun else frames.head()
            data = head + (frames.of(events) if events else frames.keepalive)
            if not out.begun:
                # `started`, or a silence long enough that a proxy might give up.
                headers: dict[str, str] = {}
                if events and isinstance(events[0], Started):
                    waited_s = asyncio.get_running_loop().time() - self._accepted_s
                    headers[QUEUE_MS] = str(int(waited_s * 1000))
                await out.begin(headers)
            if data:
                await out.write(data)
        if error is not None:
            raise error


async def open_answer(
    request: web.Request,
    route: Reading,
    open_request: ExitStack,
    fields: AbstractContextManager[None] | None = None,
) -> tuple[Asked, PendingAnswer]:
    """Queue what the body asks for. The request counts as open, and as its key's stream, until `open_request` ends.

    Args:
        fields: has refusals of what was read name fields as the route does.

    Raises:
        RelaisError: as `read_asked` and `accept`.
    """
    parts = request.app[PARTS]
    async with read_asked(request, route) as (caller, body, asked):
        open_request.enter_context(parts.drain.request())
        open_request.enter_context(parts.streams.of(caller.key_id))
        with fields or nullcontext():
            accepted = await accept(request, asked.draft, caller=caller, body=body)
    answer = PendingAnswer(
        parts,
        accepted.channel_id,
        caller,
        on_disconnect=asked.draft.on_disconnect,
        repeatable="Idempotency-Key" in request.headers,
        is_new=not accepted.duplicate,
    )
    return asked, answer


_SEND_AGAIN = "this server is shutting down; send the request again"
_GOES_ON = (
    "this server is shutting down; the response goes on: read on with stream=true and"
    " starting_after=N, N being this event's sequence_number"
)


class _Reading:
    """Decodes the events that a follower returns."""

    __slots__ = ("_caller", "_lengths", "_parts", "_resumable", "_said")

    def __init__(self, parts: Parts, caller: Caller, *, resumable: bool = False) -> None:
        self._parts = parts
        self._caller = caller
        self._resumable = resumable
        self._lengths: Counter[int] = Counter()  # of the text of each answer
        self._said: set[int] = set()

    def events(self, one: LiveBatch | ChannelState | None) -> list[Event]:
        """Return the events of a batch, or what is left of them if the log has expired; none after a silence.

        Raises:
            Draining, KeyRevoked: noticed after a silence.
        """
        if isinstance(one, LiveBatch):
            events = [decode_event(line) for line in one.lines]
            for event in events:
                if isinstance(event, Token):
                    self._lengths[event.index] += len(event.text)
                    if event.says_something:
                        self._said.add(event.index)
            return events
        if one is None:
            drain = self._parts.drain
            if drain.over or (drain.started and self._resumable):
                raise Draining(_GOES_ON if self._resumable else _SEND_AGAIN)
            self._parts.key_ring.check(self._caller)
            return []
        return left_of(one, self._lengths, self._said) if one.status.is_terminal else []


def left_of(
    state: ChannelState, lengths: Mapping[int, int] = {}, said: Collection[int] = ()
) -> list[Event]:
    """Return what is left of a channel whose log has expired.

    Args:
        lengths: characters of each answer's text that were read before.
        said: answers of which anything was read before.
    """
    return remains(decode_event(state.outcome or b""), state.text or "", lengths=lengths, said=said)


def remains(
    outcome: Event,
    text: str,
    *,
    lengths: Mapping[int, int] = {},
    said: Collection[int] = (),
) -> list[Event]:
    """Return the events that stand for those of a log which has expired, and the end.

    They are one token of each answer, or of each part of one whose reasoning, text and calls alternate.
    """
    ends: Sequence[Event | AnswerEnd] = (outcome,)
    if isinstance(outcome, Completed) and outcome.answers:
        ends = outcome.answers
    rests: list[Event] = []
    for index, end in enumerate(ends):
        message = end.message if isinstance(end, (Completed, AnswerEnd)) else None
        if message is not None and message.stretches and not (index in said or lengths.get(index)):
            rests += _told(message)
            continue
        rest = Token(text, (), index=index)
        if isinstance(end, AnswerEnd):
            rest.end = end
            rest.text = "" if message is None else message.text
        rest.text = rest.text[lengths.get(index, 0) :]
        if index not in said and message is not None:
            rest.reasoning = message.reasoning or ""
            rest.tool_calls = parts_of(message.tool_calls)
        rests.append(rest)
    return [*rests, outcome]


def _told(message: Message) -> list[Token]:
    """Return a token for each part of the only answer of a request."""
    tokens: list[Token] = []
    deltas = iter(parts_of(message.tool_calls))
    for part in message.parts():
        if isinstance(part, ToolCall):
            tokens.append(Token("", (), tool_calls=(next(deltas),)))
        elif part[0] == "reasoning":
            tokens.append(Token("", (), reasoning=part[1]))
        else:
            tokens.append(Token(part[1], ()))
    return tokens


def no_answer(event: Event) -> RelaisError | None:
    """Return the error for an end other than `completed`; None for any other event."""
    match event:
        case Failed(error):
            return EndedOtherwise(error)
        case Cancelled():
            return errors.RequestCancelled("the request was cancelled")
        case Expired():
            return errors.RequestExpired("the request's deadline passed", param="deadline_s")
    return None
