"""Encodes a channel's events as frames of an OpenAI stream. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

import orjson

from relais_common.jobs.errors import RelaisError
from relais_common.jobs.events import AnswerEnd, Completed, Event, Prompt, Started, Token
from relais_orchestrator.api.openai.formats import Format, usage_so_far
from relais_orchestrator.http.responses import error_body
from relais_orchestrator.streams import sse

DONE = sse.data_frame(b"[DONE]")
_PLACE = "\0"  # no model's name


class ChunkFrames:
    """Encodes one stream as chunks, with one frame per token even if tokens arrive together.

    Args:
        continuous_usage: with `include_usage`, every chunk has the usage of its answer so far, as vLLM's.
        answers: how many begin together; others begin with their first token.
    """

    keepalive = sse.KEEPALIVE

    __slots__ = (
        "_answers", "_around", "_begun", "_continuous_usage", "_head_waits", "_include_usage", "_input_tokens",
        "_offsets", "_output_tokens", "_shape",
    )  # fmt: skip

    def __init__(
        self,
        shape: Format,
        *,
        include_usage: bool,
        continuous_usage: bool = False,
        answers: int = 1,
    ) -> None:
        self._shape = shape
        self._include_usage = include_usage
        self._continuous_usage = include_usage and continuous_usage
        self._answers = answers
        self._input_tokens: int | None = None
        self._output_tokens: Counter[int] = Counter()
        self._offsets: Counter[int] = Counter()  # of the next token that is told, in characters
        self._begun: set[int] = set()
        self._head_waits = False
        # Only the text differs between tokens, so the rest of each answer's chunk is encoded once.
        self._around: dict[int, tuple[bytes, bytes]] = {}

    def head(self) -> bytes:
        """Return the frames that precede all events. With the usage so far they wait for the prompt's."""
        self._head_waits = self._continuous_usage
        return b"" if self._head_waits else self._heads()

    def _heads(self) -> bytes:
        return b"".join(map(self._head_of, range(self._answers)))

    def _head_of(self, index: int) -> bytes:
        self._begun.add(index)
        return b"".join(
            self._frame(chunk, index, so_far=False) for chunk in self._shape.head(index)
        )

    def of(self, events: Iterable[Event]) -> bytes:
        """Return the frames of these events; empty if the events have no counterpart."""
        pieces: list[bytes] = []
        for event in events:
            if isinstance(event, Token):
                # A remote server may tell no ids; it sends one token at a time.
                self._output_tokens[event.index] += len(event.token_ids) or event.says_something
                if event.index and event.index not in self._begun:
                    pieces.append(self._head_of(event.index))
                if self._is_plain(event):
                    pieces += self._plain(event)
                else:
                    pieces.append(self._token(event))
                if event.end is not None:
                    pieces.append(self._end_of(event.end, event.index))
            elif isinstance(event, Started):
                self._input_tokens = event.input_tokens
                if self._head_waits:
                    self._head_waits = False
                    pieces.append(self._heads())
            elif isinstance(event, Prompt):
                pieces += self._prompt(event)
            elif isinstance(event, Completed):
                pieces.append(self._end(event))
        return b"".join(pieces)

    def _is_plain(self, token: Token) -> bool:
        """Whether nothing but its text, if any, is told."""
        return (
            token.logprobs is None
            and not (token.reasoning or token.tool_calls)
            and not (token.token_ids and self._shape.shown.token_ids)
        )

    def _plain(self, token: Token) -> Iterable[bytes]:
        if not token.text:
            return ()
        if self._continuous_usage:
            return (self._frame(self._shape.text(token.text, token.index), token.index),)
        around = self._around.get(token.index)
        if around is None:
            chunk = self._frame(self._shape.text(_PLACE, token.index), token.index)
            before, _, after = chunk.partition(orjson.dumps(_PLACE))
            around = self._around[token.index] = before, after
        return around[0], orjson.dumps(token.text), around[1]

    def _token(self, token: Token) -> bytes:
        # Every token that is told comes as it is, even if its text is held back.
        chunk = self._shape.token(token, self._offsets[token.index])
        self._offsets[token.index] += sum(len(one.token) for one in token.logprobs or ())
        return self._frame(chunk, token.index)

    def _prompt(self, prompt: Prompt) -> Iterable[bytes]:
        n, shown = self._shape.shown.n, self._shape.shown
        if shown.echo and shown.logprobs:
            length = sum(len(place[0].token) for place in prompt.logprobs or ())
            first = prompt.index * n
            for index in range(first, first + n):
                self._offsets[index] = length
        return (
            self._frame(chunk, prompt.index * n + at)
            for at, chunk in enumerate(self._shape.prompt(prompt))
        )

    def _end_of(self, end: AnswerEnd, index: int) -> bytes:
        self._output_tokens[index] = end.output_tokens
        return self._frame(self._shape.finish(end, index), index)

    def failure(self, error: RelaisError) -> bytes:
        """Return a last chunk with the error."""
        return sse.data_frame(orjson.dumps(error_body(error.info)))

    def _end(self, completed: Completed) -> bytes:
        end = b""
        if not completed.answers:
            self._input_tokens = completed.usage.input_tokens
            self._output_tokens[0] = completed.usage.output_tokens
            end = self._frame(self._shape.finish(completed, 0), 0)
        if self._include_usage:
            end += sse.data_frame(orjson.dumps(self._shape.usage(completed)))
        return end + DONE

    def _frame(self, chunk: Mapping[str, object], index: int, *, so_far: bool = True) -> bytes:
        """Encode a chunk of this answer. If usage was requested, others than the last have a null `usage`, as OpenAI's.

        Args:
            so_far: whether the usage so far has tokens of the answer.
        """
        if self._include_usage:
            usage = None
            if self._continuous_usage:
                output_tokens = self._output_tokens[index] if so_far else 0
                usage = usage_so_far(self._input_tokens, output_tokens)
            chunk = {**chunk, "usage": usage}
        return sse.data_frame(orjson.dumps(chunk))
