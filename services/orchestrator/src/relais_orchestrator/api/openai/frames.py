"""Encodes a channel's events as frames of an OpenAI stream. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import orjson

from relais_common.jobs.errors import RelaisError
from relais_common.jobs.events import Completed, Event, Started, Token, TokenLogprob
from relais_orchestrator.api.openai.formats import Format, usage_so_far
from relais_orchestrator.http.responses import error_body
from relais_orchestrator.streams import sse

DONE = sse.data_frame(b"[DONE]")
_PLACE = "\0"  # no model's name


class ChunkFrames:
    """Encodes one stream as chunks, with one frame per token even if tokens arrive together.

    Args:
        continuous_usage: with `include_usage`, every chunk has the usage so far, as vLLM's.
    """

    keepalive = sse.KEEPALIVE

    __slots__ = (
        "_after", "_before", "_continuous_usage", "_include_usage", "_input_tokens", "_offset", "_output_tokens",
        "_shape",
    )  # fmt: skip

    def __init__(
        self, shape: Format, *, include_usage: bool, continuous_usage: bool = False
    ) -> None:
        self._shape = shape
        self._include_usage = include_usage
        self._continuous_usage = include_usage and continuous_usage
        self._input_tokens: int | None = None
        self._output_tokens = 0
        self._offset = 0  # of the next token that is told, in characters
        # Only the text differs between tokens, so the rest of the chunk is encoded once.
        chunk = self._frame(shape.text(_PLACE))
        self._before, _, self._after = chunk.partition(orjson.dumps(_PLACE))

    def head(self) -> bytes:
        """Return the frames that precede all events."""
        head = self._shape.head()
        return b"" if head is None else self._frame(head, 0)

    def of(self, events: Iterable[Event]) -> bytes:
        """Return the frames of these events; empty if the events have no counterpart."""
        pieces: list[bytes] = []
        for event in events:
            if isinstance(event, Token):
                # A remote server may tell no ids; it sends one token at a time.
                self._output_tokens += len(event.token_ids) or event.says_something
                if event.reasoning or event.tool_calls:
                    pieces.append(self._frame(self._shape.aside(event)))
                elif event.logprobs is not None:
                    # Every token is reported as it comes, even if its text is held back.
                    pieces.append(self._tokens(event.text, event.logprobs))
                elif event.text and self._continuous_usage:
                    pieces.append(self._frame(self._shape.text(event.text)))
                elif event.text:
                    pieces += (self._before, orjson.dumps(event.text), self._after)
            elif isinstance(event, Started):
                self._input_tokens = event.input_tokens
            elif isinstance(event, Completed):
                pieces.append(self._end(event))
        return b"".join(pieces)

    def failure(self, error: RelaisError) -> bytes:
        """Return a last chunk with the error."""
        return sse.data_frame(orjson.dumps(error_body(error.info)))

    def _tokens(self, text: str, tokens: Sequence[TokenLogprob]) -> bytes:
        chunk = self._shape.tokens(text, tokens, self._offset)
        self._offset += sum(len(one.token) for one in tokens)
        return self._frame(chunk)

    def _end(self, completed: Completed) -> bytes:
        self._input_tokens = completed.usage.input_tokens
        end = self._frame(self._shape.finish(completed), completed.usage.output_tokens)
        if self._include_usage:
            end += sse.data_frame(orjson.dumps(self._shape.usage(completed)))
        return end + DONE

    def _frame(self, chunk: Mapping[str, object], output_tokens: int | None = None) -> bytes:
        """Encode a chunk. If usage was requested, chunks before the last have a null `usage`, as OpenAI's do.

        Args:
            output_tokens: the number so far; None for what was counted.
        """
        if self._include_usage:
            usage = None
            if self._continuous_usage:
                so_far = self._output_tokens if output_tokens is None else output_tokens
                usage = usage_so_far(self._input_tokens, so_far)
            chunk = {**chunk, "usage": usage}
        return sse.data_frame(orjson.dumps(chunk))
