"""Reads the chunks of one answer. Unknown or invalid values are left out and counted.

Values come from outside: a wrong type, a number out of range or an unknown word must reach neither clients nor Redis.
Each field is checked separately, so that an invalid one does not affect the others.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Annotated, Any, NoReturn, TypeVar

import msgspec
import orjson
from msgspec import Meta, Struct

from relais_common.jobs.chat import FunctionDelta, ToolCallDelta
from relais_common.jobs.events import TokenLogprob
from relais_common.remote.errors import Lost, TooMuch
from relais_common.remote.server import MAX_COUNT
from relais_llm_worker.remote.bounds import Bounds
from relais_llm_worker.remote.logprobs import TokenText, read_logprobs
from relais_llm_worker.remote.sse import Event

MAX_TOKEN_ID = (1 << 31) - 1
IGNORED_FIELDS = (
    "event",
    "choices",
    "content",
    "reasoning",
    "tool_calls",
    "finish_reason",
    "stop_reason",
    "token_ids",
    "logprobs",
    "usage",
)
"""Fields whose values may be left out: the values of the metric's label `field`."""

Known = TypeVar("Known", bound=Struct)
_CHUNK_CHARACTERS = 16

_NO_END = ("abort", "error")
_REASONS = {
    **{word: word for word in ("stop", "length", "content_filter", "tool_calls", "function_call")},
    **dict.fromkeys(("eos", "eos_token", "stop_sequence", "end_turn"), "stop"),
    **dict.fromkeys(("max_tokens", "model_length"), "length"),
    "safety": "content_filter",
    **dict.fromkeys(("", "null", "none"), None),
}
MAX_CALLS = 128

_TokenId = Annotated[int, Meta(ge=0, le=MAX_TOKEN_ID)]
# Some servers count in JSON's floats.
_Count = (
    Annotated[int, Meta(ge=0, le=MAX_COUNT)]
    | Annotated[float, Meta(ge=0, le=MAX_COUNT, multiple_of=1)]
)


class _Chunk(Struct):
    error: Any = None
    usage: dict[str, Any] | None = None
    choices: list[Any] | None = None
    prompt_token_ids: tuple[_TokenId, ...] | None = None


class _Choice(Struct):
    text: Any = None
    delta: dict[str, Any] | None = None
    token_ids: tuple[_TokenId, ...] | None = None
    prompt_token_ids: tuple[_TokenId, ...] | None = None
    finish_reason: str | None = None
    stop_reason: TokenText | _TokenId | None = None
    logprobs: Any = None


class _Function(Struct):
    name: Annotated[str, Meta(max_length=256)] | None = None
    arguments: str | None = None


class _Call(Struct):
    index: Annotated[int, Meta(ge=0, lt=MAX_CALLS)] | None = None
    id: Annotated[str, Meta(min_length=1, max_length=256)] | None = None
    function: _Function | None = None


class _PromptDetails(Struct):
    cached_tokens: _Count | None = None


class _OutputDetails(Struct):
    reasoning_tokens: _Count | None = None


class _Usage(Struct):
    prompt_tokens: _Count | None = None
    completion_tokens: _Count | None = None
    prompt_tokens_details: _PromptDetails | None = None
    completion_tokens_details: _OutputDetails | None = None


_LABELS = {
    "delta": "choices",
    "prompt_token_ids": "token_ids",
    **dict.fromkeys(_Usage.__struct_fields__, "usage"),
}
"""Names in the metric, where they differ from the field's."""


@dataclass(frozen=True, slots=True)
class Counts:
    """Token counts as reported by a server; None if it reports none."""

    input_tokens: int | None = None
    output_tokens: int | None = None
    cached_tokens: int = 0
    reasoning_tokens: int | None = None


NO_COUNTS = Counts()


@dataclass(frozen=True, slots=True)
class Delta:
    """One chunk of a stream.

    Attributes:
        token_ids: None if the server does not report them.
        prompt_token_ids: on the first chunk, if the server reports them.
        reasoning, tool_calls: what the server separates from the text.
        counts: of all chunks so far.
    """

    text: str = ""
    token_ids: tuple[int, ...] | None = None
    prompt_token_ids: tuple[int, ...] | None = None
    finish_reason: str | None = None
    stop_reason: str | int | None = None
    reasoning: str = ""
    tool_calls: tuple[ToolCallDelta, ...] = ()
    counts: Counts = NO_COUNTS
    logprobs: tuple[TokenLogprob, ...] = ()

    @property
    def aside(self) -> bool:
        """Return whether there is reasoning or a tool call."""
        return bool(self.reasoning or self.tool_calls)


class ChunkReader:
    """Reads one stream's events.

    Attributes:
        counts: the latest reported values.
        said_something: whether there was text, reasoning or a tool call.

    Args:
        ignore: called with one of `IGNORED_FIELDS` for each omitted value.
        fail: raises the error that an error in the stream stands for.
    """

    def __init__(
        self, bounds: Bounds, ignore: Callable[[str], None], fail: Callable[[Any], NoReturn]
    ) -> None:
        self._bounds = bounds
        self._ignore = ignore
        self._fail = fail
        self._characters = bounds.characters
        self._ids = bounds.tokens
        self.counts = NO_COUNTS
        self.said_something = False
        self._begun: dict[int, bool] = {}  # calls, and whether they have a name

    def read(self, event: Event) -> Delta | None:
        """Return the event's delta; None if it has none.

        Raises:
            Lost: it is not JSON.
            TooMuch: the answer is longer than it may be.
        """
        if not event.data and event.name != b"error":
            return None
        try:
            chunk = orjson.loads(event.data)
        except orjson.JSONDecodeError:
            raise Lost("a chunk is no JSON") from None
        if not isinstance(chunk, dict):
            if chunk is not None:
                self._ignore("event")
            return None
        known = self._known(_Chunk, chunk)
        if known.error or event.name == b"error":
            self._fail(chunk)
        if known.usage:
            self._note_usage(self._known(_Usage, known.usage))
        choice = self._choice(known.choices or [])
        if choice is None:
            return None
        delta = choice.delta or {}
        text, reasoning = self._text(choice.text or delta.get("content"))
        reasoning += self._reasoning(delta)
        calls = self._calls(delta.get("tool_calls"))
        self.said_something = self.said_something or bool(text or reasoning or calls)
        prompt_ids = known.prompt_token_ids or choice.prompt_token_ids
        if len(prompt_ids or ()) > self._bounds.prompt_tokens:
            self._ignore("token_ids")
            prompt_ids = None
        self._ids -= len(choice.token_ids or ())
        if self._ids < 0:
            raise TooMuch
        return Delta(
            text=text,
            token_ids=choice.token_ids,
            prompt_token_ids=prompt_ids,
            finish_reason=self._reason(choice.finish_reason),
            stop_reason=choice.stop_reason,
            reasoning=reasoning,
            tool_calls=calls,
            counts=self.counts,
            logprobs=self._logprobs(choice.logprobs),
        )

    def _known(self, kind: type[Known], given: dict[str, Any]) -> Known:
        """Return the known fields of an object; invalid ones are counted and get their defaults."""
        try:
            return msgspec.convert(given, kind)
        except msgspec.ValidationError:
            pass
        fit = {}
        for name in filter(given.__contains__, kind.__struct_fields__):
            try:
                msgspec.convert({name: given[name]}, kind)
            except msgspec.ValidationError:
                self._ignore(_LABELS.get(name, name))
            else:
                fit[name] = given[name]
        return msgspec.convert(fit, kind)

    def _choice(self, choices: list[Any]) -> _Choice | None:
        """Return the first choice; only one was requested."""
        fit = [one for one in choices if isinstance(one, dict) and _is_first(one.get("index"))]
        if len(fit) != len(choices) or len(fit) > 1:
            self._ignore("choices")
        return self._known(_Choice, fit[0]) if fit else None

    def _text(self, content: Any) -> tuple[str, str]:
        """Return a chunk's text, and the reasoning within it. Some servers send parts, as clients do."""
        if content is None:
            return "", ""
        if isinstance(content, str):
            self._charge(len(content))
            return content, ""
        if not isinstance(content, list):
            self._ignore("content")
            return "", ""
        texts, thoughts = [], []
        for part in content:
            match part:
                case {"type": "text", "text": str(text)}:
                    texts.append(text)
                case {"type": "thinking", "thinking": list(parts)}:
                    thoughts += [_part_text(one) for one in parts]
                case {"type": "reasoning", "text": str(text)} | {
                    "type": "thinking" | "reasoning",
                    "thinking": str(text),
                }:
                    thoughts.append(text)
                case _:
                    self._ignore("content")
        self._charge(sum(map(len, (*texts, *thoughts))))
        return "".join(texts), "".join(thoughts)

    def _reasoning(self, delta: dict[str, Any]) -> str:
        """Return the reasoning, under vLLM's name or the older one. Servers that send both send the same text."""
        for name in ("reasoning", "reasoning_content"):
            given = delta.get(name)
            if isinstance(given, str) and given:
                self._charge(len(given))
                return given
            if given:
                self._ignore("reasoning")
        return ""

    def _calls(self, given: Any) -> tuple[ToolCallDelta, ...]:
        """Return the next parts of calls, each with id and name once, whatever the server repeats or omits."""
        if not given:
            return ()
        if not isinstance(given, list):
            self._ignore("tool_calls")
            return ()
        calls: list[ToolCallDelta] = []
        for position, one in enumerate(given):
            try:
                call = msgspec.convert(one, _Call)
            except msgspec.ValidationError:
                self._ignore("tool_calls")
                continue
            calls += self._call(position, call)
        return tuple(calls)

    def _call(self, position: int, call: _Call) -> Iterator[ToolCallDelta]:
        function = call.function or _Function()
        index = position if call.index is None else call.index
        if index >= MAX_CALLS:
            raise TooMuch
        self._charge(len(function.name or "") + len(function.arguments or ""))
        is_new = index not in self._begun
        has_name = self._begun.get(index, False)
        self._begun[index] = has_name or bool(function.name)
        name = None if has_name else function.name
        if is_new:
            id_ = call.id or f"call_{secrets.token_hex(12)}"
            first = FunctionDelta(name, function.arguments or "")
            yield ToolCallDelta(index, id_, "function", first)
        elif name or function.arguments:
            yield ToolCallDelta(index, function=FunctionDelta(name, function.arguments))

    def _charge(self, characters: int, pieces: int = 1) -> None:
        self._characters -= characters + pieces * _CHUNK_CHARACTERS
        if self._characters < 0:
            raise TooMuch

    def _reason(self, given: str | None) -> str | None:
        word = (given or "").lower()
        if word in _NO_END:
            raise Lost(f"the server ended the request: {word}")
        if word not in _REASONS:
            self._ignore("finish_reason")
        return _REASONS.get(word)

    def _note_usage(self, usage: _Usage) -> None:
        details, output = usage.prompt_tokens_details, usage.completion_tokens_details
        told = {
            "input_tokens": usage.prompt_tokens,
            "output_tokens": usage.completion_tokens,
            "cached_tokens": None if details is None else details.cached_tokens,
            "reasoning_tokens": None if output is None else output.reasoning_tokens,
        }
        known = {name: int(count) for name, count in told.items() if count is not None}
        self.counts = replace(self.counts, **known)

    def _logprobs(self, given: Any) -> tuple[TokenLogprob, ...]:
        if not given or self._bounds.candidates is None:
            return ()
        try:
            told = read_logprobs(given, self._bounds.candidates)
        except ValueError:
            self._ignore("logprobs")
            return ()
        for one in told:
            tops = one.top_logprobs
            self._charge(len(one.token) + sum(len(top.token) for top in tops), pieces=1 + len(tops))
        return told


def _part_text(part: Any) -> str:
    text = part.get("text") if isinstance(part, dict) else None
    return text if isinstance(text, str) else ""


def _is_first(index: Any) -> bool:
    return type(index) is not int or index == 0
