"""Encodes a channel's events as Anthropic's stream events. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import orjson

from relais_common.jobs.chat import ToolCallDelta
from relais_common.jobs.errors import RelaisError
from relais_common.jobs.events import Completed, Event, Started, Token, Usage
from relais_orchestrator.api.call_order import CallOrder
from relais_orchestrator.api.messages.errors import FIELDS, error_envelope
from relais_orchestrator.api.messages.formats import message_object, stopped, usage_object
from relais_orchestrator.streams import sse

PING = sse.named_frame(b"ping", b'{"type":"ping"}')


def _frame(event: Mapping[str, object]) -> bytes:
    return sse.named_frame(str(event["type"]).encode(), orjson.dumps(event))


class MessageFrames:
    """Encodes one stream: blocks of content, one after another, each with its parts."""

    __slots__ = ("_channel_id", "_kind", "_order", "_place", "keepalive")

    def __init__(self, channel_id: str) -> None:
        self._channel_id = channel_id
        # A `ping` may not precede `message_start`.
        self.keepalive = sse.KEEPALIVE
        self._place = -1  # of the last block
        self._kind: str | int | None = (
            None  # of the open block: `text`, `thinking`, or a call's index
        )
        self._order = CallOrder()

    def head(self) -> bytes:
        # `message_start` counts the prompt, which is known once the engine has it.
        return b""

    def of(self, events: Iterable[Event]) -> bytes:
        """Return the frames of these events; empty if the events have no counterpart."""
        return b"".join(frame for event in events for frame in self._frames(event))

    def failure(self, error: RelaisError) -> bytes:
        """Return an event with the error."""
        return _frame(error_envelope(FIELDS.info(error.info), self._channel_id))

    def _frames(self, event: Event) -> Iterator[bytes]:
        if isinstance(event, Started):
            yield from self._start(event.input_tokens)
        elif isinstance(event, Token) and event.index == 0:
            # A message is one answer: of several, the first.
            yield from self._start(None)
            for token in self._order.of(event):
                yield from self._token(token)
        elif isinstance(event, Completed):
            yield from self._start(event.usage.input_tokens)
            for token in self._order.rest():
                yield from self._token(token)
            yield from self._end(event)

    def _token(self, token: Token) -> Iterator[bytes]:
        if token.reasoning:
            yield from self._part("thinking", "thinking", token.reasoning)
        if token.text:
            yield from self._part("text", "text", token.text)
        for delta in token.tool_calls:
            yield from self._call(delta)

    def _start(self, input_tokens: int | None) -> Iterator[bytes]:
        if self.keepalive is PING:
            return
        self.keepalive = PING
        message = message_object(self._channel_id, [], Usage(input_tokens, 0))
        yield _frame({"type": "message_start", "message": message})
        yield PING

    def _part(self, kind: str, field: str, part: str) -> Iterator[bytes]:
        """Yield a part of the open block of this kind, or of a new one."""
        if self._kind != kind:
            beside: dict[str, str | None] = (
                {"signature": ""} if kind == "thinking" else {"citations": None}
            )
            yield from self._open(kind, {"type": kind, field: "", **beside})
        yield self._delta(f"{kind}_delta", field, part)

    def _call(self, delta: ToolCallDelta) -> Iterator[bytes]:
        if self._kind != delta.index:
            name = delta.function.name or ""
            block = {"type": "tool_use", "id": delta.id or "", "name": name, "input": {}}
            yield from self._open(delta.index, block)
        if delta.function.arguments:
            yield self._delta("input_json_delta", "partial_json", delta.function.arguments)

    def _open(self, kind: str | int, block: Mapping[str, object]) -> Iterator[bytes]:
        yield from self._close()
        self._place += 1
        self._kind = kind
        yield _frame({"type": "content_block_start", "index": self._place, "content_block": block})

    def _close(self) -> Iterator[bytes]:
        if self._kind is None:
            return
        if self._kind == "thinking":
            yield self._delta("signature_delta", "signature", self._channel_id)
        yield _frame({"type": "content_block_stop", "index": self._place})
        self._kind = None

    def _end(self, completed: Completed) -> Iterator[bytes]:
        if self._place < 0:
            # Clients expect a block, also in an answer of no tokens.
            yield from self._open("text", {"type": "text", "text": "", "citations": None})
        yield from self._close()
        yield _frame(
            {
                "type": "message_delta",
                "delta": stopped(completed),
                "usage": usage_object(completed.usage),
            }
        )
        yield _frame({"type": "message_stop"})

    def _delta(self, kind: str, field: str, part: str) -> bytes:
        delta = {"type": kind, field: part}
        return _frame({"type": "content_block_delta", "index": self._place, "delta": delta})
