"""Turns a channel's events into those of a response. Pure: the same log gives the same events with the same numbers.

So any orchestrator continues a stream after any number, also after the death of the one that began it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

import orjson

from relais_common.jobs.chat import FunctionCall, ToolCall, ToolCallDelta
from relais_common.jobs.errors import (
    Draining,
    KeyRevoked,
    LogRewound,
    RelaisError,
    RequestCancelled,
    RequestExpired,
)
from relais_common.jobs.events import Completed, Event, Queued, Restarted, Started, Token
from relais_orchestrator.api.call_order import CallOrder
from relais_orchestrator.api.responses.objects import (
    ItemStatus,
    Logprob,
    OutputItem,
    ResponseObject,
)
from relais_orchestrator.api.responses.showing import (
    EXPIRED,
    Shown,
    error_object,
    item_id,
    logprob,
    output_text,
    status_of,
)
from relais_orchestrator.streams import sse

Kind = Literal["reasoning", "message", "call"]
_IDS: dict[Kind, str] = {"reasoning": "rs", "message": "msg", "call": "fc"}
_DELTAS: dict[Kind, str] = {
    "reasoning": "response.reasoning_text",
    "message": "response.output_text",
    "call": "response.function_call_arguments",
}


class _Open:
    """The item that is being written.

    Attributes:
        number: of a call, among the answer's calls.
    """

    __slots__ = ("call_id", "id", "index", "kind", "logprobs", "name", "number", "pieces")

    def __init__(self, kind: Kind, item: str, index: int, delta: ToolCallDelta | None) -> None:
        self.kind = kind
        self.id = item
        self.index = index
        self.pieces: list[str] = []
        self.logprobs: list[Logprob] = []
        self.number = -1 if delta is None else delta.index
        self.call_id = "" if delta is None else delta.id or ""
        self.name = "" if delta is None else delta.function.name or ""


class ResponseFrames:
    """Encodes one stream.

    Args:
        after: the `sequence_number` of the last event that the client has; -1 for none.
    """

    keepalive = sse.KEEPALIVE

    __slots__ = (
        "_after", "_done", "_index", "_next", "_open", "_order", "_out", "_pending", "_shown", "_started",
    )  # fmt: skip

    def __init__(self, shown: Shown, *, after: int = -1) -> None:
        self._shown = shown
        self._after = after
        self._next = 0
        self._started = False
        self._index = 0
        self._done: list[OutputItem] = []
        self._open: _Open | None = None
        self._order = CallOrder()
        self._pending: list[Logprob] = []
        self._out: list[bytes] = []

    @property
    def last(self) -> int:
        """The `sequence_number` of the last event that was encoded, or left out because the client has it."""
        return self._next - 1

    def head(self) -> bytes:
        """Return the first frames. They need no event, and come once."""
        self._begin()
        return self._taken()

    def _begin(self) -> None:
        if self._next:
            return
        if self._shown.background:
            self._lifecycle("created", self._shown.body("queued"))
            self._lifecycle("queued", self._shown.body("queued"))
        else:
            self._lifecycle("created", self._shown.body("in_progress"))

    def of(self, events: Iterable[Event]) -> bytes:
        for event in events:
            if isinstance(event, Queued):
                self._begin()
            elif isinstance(event, Token):
                if event.index:
                    # A response is one answer: of several, the first.
                    continue
                self._start()
                for token in self._order.of(event):
                    self._token(token)
            elif isinstance(event, Started):
                self._start()
            elif isinstance(event, Restarted):
                # What came before does not count any more.
                self._close("incomplete")
                self._done.clear()
                self._order = CallOrder()
            elif isinstance(event, Completed):
                self._start()
                for token in self._order.rest():
                    self._token(token)
                self._complete(event)
        return self._taken()

    def failure(self, error: RelaisError) -> bytes:
        if isinstance(error, (Draining, KeyRevoked, LogRewound)):
            # The response itself goes on. Who comes back after this number misses nothing.
            body = {
                "type": "error",
                "code": error.code,
                "message": error.message,
                "param": error.param,
                "sequence_number": max(self.last, 0),
            }
            return sse.named_frame(b"error", orjson.dumps(body))
        self._begin()
        self._close("incomplete")
        if isinstance(error, RequestCancelled):
            body_: ResponseObject = self._shown.body("cancelled", self._done)
        else:
            info = EXPIRED if isinstance(error, RequestExpired) else error.info
            body_ = self._shown.body("failed", self._done, error=error_object(info))
        self._lifecycle("failed", body_)
        return self._taken()

    def _taken(self) -> bytes:
        data = b"".join(self._out)
        self._out.clear()
        return data

    def _emit(self, name: str, fields: Mapping[str, Any]) -> None:
        number = self._next
        self._next += 1
        if number > self._after:
            data = orjson.dumps({"type": name, "sequence_number": number, **fields})
            self._out.append(sse.named_frame(name.encode(), data))

    def _lifecycle(self, name: str, response: ResponseObject) -> None:
        self._emit(f"response.{name}", {"response": response})

    def _start(self) -> None:
        if not self._started:
            self._started = True
            self._lifecycle("in_progress", self._shown.body("in_progress"))

    def _token(self, token: Token) -> None:
        if token.logprobs is not None and not (token.reasoning or token.tool_calls):
            self._pending += [logprob(one) for one in token.logprobs]
        if token.reasoning:
            self._pending.clear()
            self._delta(self._opened("reasoning"), token.reasoning)
        if token.text:
            item = self._opened("message")
            told, self._pending = self._pending, []
            item.logprobs += told
            self._delta(item, token.text, told)
        for delta in token.tool_calls:
            self._pending.clear()
            call = self._opened("call", delta)
            if delta.function.arguments:
                self._delta(call, delta.function.arguments)

    def _opened(self, kind: Kind, delta: ToolCallDelta | None = None) -> _Open:
        """Return the open item if it is the one, or else close it and begin another."""
        now = self._open
        if now is not None and now.kind == kind and (delta is None or now.number == delta.index):
            return now
        self._close("completed")
        index = self._index
        self._index += 1
        item = _Open(kind, item_id(_IDS[kind], self._shown.channel_id, index), index, delta)
        self._open = item
        shown = self._item(item, "in_progress")
        if kind == "message":
            shown["content"] = []  # type: ignore[typeddict-unknown-key]
        self._emit("response.output_item.added", {"output_index": index, "item": shown})
        if kind != "call":
            self._part(item, "added")
        return item

    def _delta(self, item: _Open, text: str, logprobs: list[Logprob] | None = None) -> None:
        item.pieces.append(text)
        fields = {"item_id": item.id, "output_index": item.index, "delta": text}
        if item.kind != "call":
            fields["content_index"] = 0
        if item.kind == "message":
            # OpenAI's deltas have no bytes.
            fields["logprobs"] = [_without_bytes(one) for one in logprobs or ()]
        self._emit(f"{_DELTAS[item.kind]}.delta", fields)

    def _part(self, item: _Open, what: Literal["added", "done"]) -> None:
        text = "".join(item.pieces)
        part: Any = {"type": "reasoning_text", "text": text}
        if item.kind == "message":
            part = output_text(text, item.logprobs if what == "done" else [])
        fields = {"item_id": item.id, "output_index": item.index, "content_index": 0, "part": part}
        self._emit(f"response.content_part.{what}", fields)

    def _item(self, item: _Open, status: ItemStatus) -> OutputItem:
        text = "".join(item.pieces)
        if item.kind == "reasoning":
            return self._shown.reasoning(item.index, text, status)
        if item.kind == "message":
            return self._shown.message(item.index, text, status, item.logprobs)
        call = ToolCall(item.call_id, FunctionCall(item.name, text))
        return self._shown.call(item.index, call, status)

    def _close(self, status: ItemStatus) -> None:
        item, self._open = self._open, None
        if item is None:
            return
        text = "".join(item.pieces)
        fields: dict[str, Any] = {"item_id": item.id, "output_index": item.index}
        if item.kind == "call":
            fields |= {"name": item.name, "arguments": text}
        else:
            fields |= {"content_index": 0, "text": text}
        if item.kind == "message":
            fields["logprobs"] = item.logprobs
        self._emit(f"{_DELTAS[item.kind]}.done", fields)
        if item.kind != "call":
            self._part(item, "done")
        done = self._item(item, status)
        self._done.append(done)
        self._emit("response.output_item.done", {"output_index": item.index, "item": done})

    def _complete(self, completed: Completed) -> None:
        if self._open is None and not self._done:
            self._opened("message")
        if self._open is not None:
            self._open.logprobs += self._pending
        status = status_of(completed)
        self._close(status)
        body = self._shown.body(status, self._done, completed=completed)
        self._lifecycle(status, body)


def _without_bytes(one: Logprob) -> dict[str, Any]:
    tops = [{"token": top["token"], "logprob": top["logprob"]} for top in one["top_logprobs"]]
    return {"token": one["token"], "logprob": one["logprob"], "top_logprobs": tops}
