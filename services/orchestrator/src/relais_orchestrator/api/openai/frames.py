"""Encodes a channel's events as frames of an OpenAI stream. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import orjson

from relais_common.jobs.events import Completed, Event, Token, TokenLogprob
from relais_orchestrator.api.openai.formats import Format
from relais_orchestrator.streams import sse

DONE = sse.data_frame(b"[DONE]")
_PLACE = "\0"  # no model's name


class Frames:
    """Encodes one stream, with one frame per token even if tokens arrive together."""

    __slots__ = ("_after", "_before", "_include_usage", "_offset", "_shape")

    def __init__(self, shape: Format, *, include_usage: bool) -> None:
        self._shape = shape
        self._include_usage = include_usage
        self._offset = 0  # of the next token that is told, in characters
        # Only the text differs between tokens, so the rest of the chunk is encoded once.
        chunk = self._frame(shape.text(_PLACE))
        self._before, _, self._after = chunk.partition(orjson.dumps(_PLACE))

    def head(self) -> bytes:
        """Return the frames that precede all events."""
        head = self._shape.head()
        return b"" if head is None else self._frame(head)

    def of(self, events: Iterable[Event]) -> bytes:
        """Return the frames of these events; empty if the events have no counterpart."""
        pieces: list[bytes] = []
        for event in events:
            if isinstance(event, Token):
                if event.logprobs is not None:
                    # Every token is reported as it comes, even if its text is held back.
                    pieces.append(self._tokens(event.text, event.logprobs))
                elif event.text:
                    pieces += (self._before, orjson.dumps(event.text), self._after)
            elif isinstance(event, Completed):
                pieces.append(self._end(event))
        return b"".join(pieces)

    def _tokens(self, text: str, tokens: Sequence[TokenLogprob]) -> bytes:
        chunk = self._shape.tokens(text, tokens, self._offset)
        self._offset += sum(len(one.token) for one in tokens)
        return self._frame(chunk)

    def _end(self, completed: Completed) -> bytes:
        end = self._frame(self._shape.finish(completed))
        if self._include_usage:
            end += sse.data_frame(orjson.dumps(self._shape.usage(completed)))
        return end + DONE

    def _frame(self, chunk: Mapping[str, object]) -> bytes:
        """Encode a chunk. If usage was requested, chunks before the last have a null `usage`, as OpenAI's do."""
        if self._include_usage:
            chunk = {**chunk, "usage": None}
        return sse.data_frame(orjson.dumps(chunk))
