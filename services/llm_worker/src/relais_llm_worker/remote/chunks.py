"""The chunks of one answer, as servers write them: what is known of them is read, what is not is left out and counted.

Every value comes from elsewhere: a wrong type, a number out of range or an unknown word reaches neither clients nor
Redis. Each field is checked by itself, so that one that is wrong does not cost the others.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Annotated, Any, NoReturn, TypeVar

import msgspec
import orjson
from msgspec import Meta, Struct

from relais_common.jobs.events import TokenLogprob
from relais_llm_worker.remote.bounds import Bounds
from relais_llm_worker.remote.errors import Lost, TooMuch
from relais_llm_worker.remote.logprobs import TokenText, read_logprobs
from relais_llm_worker.remote.sse import Event

MAX_TOKEN_ID = (1 << 31) - 1
MAX_COUNT = 1 << 24
"""Tokens that any model reads or writes at once; more is no count."""
IGNORED_FIELDS = (
    "event",
    "choices",
    "content",
    "finish_reason",
    "stop_reason",
    "token_ids",
    "logprobs",
    "usage",
)
"""Where values may be left out: the label `field` of the metric."""

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
_ASIDE = ("reasoning", "reasoning_content", "tool_calls")

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


class _PromptDetails(Struct):
    cached_tokens: _Count | None = None


class _Usage(Struct):
    prompt_tokens: _Count | None = None
    completion_tokens: _Count | None = None
    prompt_tokens_details: _PromptDetails | None = None


_LABELS = {
    "delta": "choices",
    "prompt_token_ids": "token_ids",
    **dict.fromkeys(_Usage.__struct_fields__, "usage"),
}
"""Of fields that have another name in the metric."""


@dataclass(frozen=True, slots=True)
class Counts:
    """Tokens as a server counts them; None where it does not say."""

    input_tokens: int | None = None
    output_tokens: int | None = None
    cached_tokens: int = 0


NO_COUNTS = Counts()


@dataclass(frozen=True, slots=True)
class Delta:
    """One chunk of a stream.

    Attributes:
        token_ids: None where the server does not tell.
        prompt_token_ids: on the first chunk, where the server tells.
        aside: the server keeps something of the answer apart from its text: thoughts, calls of tools.
        counts: what all chunks so far say.
    """

    text: str = ""
    token_ids: tuple[int, ...] | None = None
    prompt_token_ids: tuple[int, ...] | None = None
    finish_reason: str | None = None
    stop_reason: str | int | None = None
    aside: bool = False
    counts: Counts = NO_COUNTS
    logprobs: tuple[TokenLogprob, ...] = ()


class ChunkReader:
    """Reads one stream's events.

    Attributes:
        counts: the last that the server said of each.
        said_something: there was text, or something kept apart from it.

    Args:
        ignore: called with one of `IGNORED_FIELDS` for each value that is left out.
        fail: raises what an error in the stream means.
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

    def read(self, event: Event) -> Delta | None:
        """None where it says nothing that counts.

        Raises:
            Lost: it is no JSON.
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
        text, aside = self._text(choice.text or delta.get("content"))
        aside = aside or any(map(delta.get, _ASIDE))
        self.said_something = self.said_something or aside or bool(text)
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
            aside=aside,
            counts=self.counts,
            logprobs=self._logprobs(choice.logprobs),
        )

    def _known(self, kind: type[Known], given: dict[str, Any]) -> Known:
        """What is known of an object; fields that are wrong are counted and left at their defaults."""
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
        """The only one that was asked for."""
        fit = [one for one in choices if isinstance(one, dict) and _is_first(one.get("index"))]
        if len(fit) != len(choices) or len(fit) > 1:
            self._ignore("choices")
        return self._known(_Choice, fit[0]) if fit else None

    def _text(self, content: Any) -> tuple[str, bool]:
        """A chunk's text, and whether there is something beside it. Some servers send parts, as clients do."""
        if content is None:
            return "", False
        if isinstance(content, str):
            self._charge(len(content))
            return content, False
        if not isinstance(content, list):
            self._ignore("content")
            return "", False
        texts, aside = [], False
        for part in content:
            match part:
                case {"type": "text", "text": str(text)}:
                    texts.append(text)
                case {"type": "thinking" | "reasoning"}:
                    aside = True
                case _:
                    self._ignore("content")
        self._charge(sum(map(len, texts)))
        return "".join(texts), aside

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
        details = usage.prompt_tokens_details
        told = {
            "input_tokens": usage.prompt_tokens,
            "output_tokens": usage.completion_tokens,
            "cached_tokens": None if details is None else details.cached_tokens,
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


def _is_first(index: Any) -> bool:
    return type(index) is not int or index == 0
