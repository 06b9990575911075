"""The chunks of one answer, as servers write them: what is known of them is read, what is not is left out and counted.

Every value comes from elsewhere: a wrong type, a number out of range or an unknown word reaches neither clients nor
Redis.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, NoReturn

import orjson

from relais_common.jobs.events import RankedToken, TokenLogprob
from relais_llm_worker.remote.errors import Lost, TooMuch
from relais_llm_worker.remote.sse import MAX_EVENT_BYTES, Event

UNTOLD = -9999.0  # vLLM's own word for a logarithm that it does not have
MAX_TOKEN_ID = (1 << 31) - 1
MAX_COUNT = 1 << 24
"""Tokens that any model reads or writes at once; more is no count."""
MAX_TOKEN_LENGTH = 512
"""Of one token's text, in characters."""
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

_TOKEN_CHARACTERS = 128
_CHUNK_CHARACTERS = 16
_TOKEN_BYTES = 4096
_CANDIDATE_BYTES = 512
_SPARE_CHARACTERS = 4096
_TEMPLATE_TOKENS = 32_768

_NONE_YET = frozenset(("", "null", "none"))
_NO_END = frozenset(("abort", "error"))
_REASONS = {
    **{word: word for word in ("stop", "length", "content_filter", "tool_calls", "function_call")},
    **dict.fromkeys(("eos", "eos_token", "stop_sequence", "end_turn"), "stop"),
    **dict.fromkeys(("max_tokens", "model_length"), "length"),
    "safety": "content_filter",
}
_THOUGHTS = frozenset(("thinking", "reasoning"))


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


@dataclass(frozen=True, slots=True)
class Bounds:
    """What an answer may hold.

    Attributes:
        tokens: the most it was asked for.
        candidates: likeliest tokens told beside each; None where none are told.
        prompt_bytes: of the request.
    """

    tokens: int
    candidates: int | None
    prompt_bytes: int

    @property
    def stream_bytes(self) -> int:
        """Of all chunks together, as they are sent. What servers say beside a token takes some hundred bytes."""
        return MAX_EVENT_BYTES + self.tokens * (_TOKEN_BYTES + self._told() * _CANDIDATE_BYTES)

    @property
    def characters(self) -> int:
        """Of text and of what is told beside it. A token has four on average; only a run of spaces has a hundred."""
        return _SPARE_CHARACTERS + self.tokens * _TOKEN_CHARACTERS * (1 + self._told())

    @property
    def prompt_tokens(self) -> int:
        """A token has at least one byte, but for those of the chat template."""
        return self.prompt_bytes + _TEMPLATE_TOKENS

    def _told(self) -> int:
        return 0 if self.candidates is None else self.candidates + 1


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
        if chunk.get("error") or event.name == b"error":
            self._fail(chunk)
        if (usage := chunk.get("usage")) is not None:
            self._note_usage(usage)
        choice = self._choice(chunk.get("choices"))
        if choice is None:
            return None
        delta = choice.get("delta")
        if not isinstance(delta, dict):
            if delta is not None:
                self._ignore("choices")
            delta = {}
        text, aside = self._text(choice.get("text") or delta.get("content"))
        aside = aside or any(
            delta.get(name) for name in ("reasoning", "reasoning_content", "tool_calls")
        )
        self.said_something = self.said_something or aside or bool(text)
        prompt_ids = chunk.get("prompt_token_ids") or choice.get("prompt_token_ids")
        return Delta(
            text=text,
            token_ids=self._token_ids(choice.get("token_ids")),
            prompt_token_ids=self._known_ids(prompt_ids, self._bounds.prompt_tokens),
            finish_reason=self._reason(choice.get("finish_reason")),
            stop_reason=self._stop_reason(choice.get("stop_reason")),
            aside=aside,
            counts=self.counts,
            logprobs=self._logprobs(choice.get("logprobs")),
        )

    def _choice(self, choices: Any) -> dict[str, Any] | None:
        """The only one that was asked for."""
        if choices is None or choices == []:
            return None
        if isinstance(choices, list):
            fit = [one for one in choices if isinstance(one, dict) and _is_first(one.get("index"))]
            if len(fit) != len(choices) or len(fit) > 1:
                self._ignore("choices")
            return fit[0] if fit else None
        self._ignore("choices")
        return None

    def _text(self, content: Any) -> tuple[str, bool]:
        """A chunk's text, and whether there is something beside it. Some servers send parts, as clients do."""
        if content is None:
            return "", False
        if isinstance(content, str):
            self._charge(len(content) + _CHUNK_CHARACTERS)
            return content, False
        if not isinstance(content, list):
            self._ignore("content")
            return "", False
        texts = []
        aside = False
        for part in content:
            kind = part.get("type") if isinstance(part, dict) else None
            if kind == "text" and isinstance(part.get("text"), str):
                texts.append(part["text"])
            elif isinstance(kind, str) and kind in _THOUGHTS:
                aside = True
            else:
                self._ignore("content")
        text = "".join(texts)
        self._charge(len(text) + _CHUNK_CHARACTERS)
        return text, aside

    def _charge(self, characters: int) -> None:
        self._characters -= characters
        if self._characters < 0:
            raise TooMuch

    def _token_ids(self, given: Any) -> tuple[int, ...] | None:
        ids = self._known_ids(given, MAX_COUNT)
        self._ids -= len(ids or ())
        if self._ids < 0:
            raise TooMuch
        return ids

    def _known_ids(self, given: Any, most: int) -> tuple[int, ...] | None:
        if given is None:
            return None
        # By types as a whole: a long prompt has a million of them.
        if (
            isinstance(given, list)
            and len(given) <= most
            and {*map(type, given)} <= {int}
            and (not given or (min(given) >= 0 and max(given) <= MAX_TOKEN_ID))
        ):
            return tuple(given)
        self._ignore("token_ids")
        return None

    def _reason(self, given: Any) -> str | None:
        if given is None:
            return None
        word = given.lower() if isinstance(given, str) else None
        if word in _NO_END:
            raise Lost(f"the server ended the request: {word}")
        reason = _REASONS.get(word) if word is not None else None
        if reason is None and word not in _NONE_YET:
            self._ignore("finish_reason")
        return reason

    def _stop_reason(self, given: Any) -> str | int | None:
        if type(given) is int and 0 <= given <= MAX_TOKEN_ID:
            return given
        if isinstance(given, str) and len(given) <= MAX_TOKEN_LENGTH:
            return given
        if given is not None:
            self._ignore("stop_reason")
        return None

    def _note_usage(self, given: Any) -> None:
        if not isinstance(given, dict):
            self._ignore("usage")
            return
        details = given.get("prompt_tokens_details")
        cached = details.get("cached_tokens") if isinstance(details, dict) else None
        read = self._count(given.get("prompt_tokens"))
        made = self._count(given.get("completion_tokens"))
        known = self._count(cached)
        self.counts = Counts(
            self.counts.input_tokens if read is None else read,
            self.counts.output_tokens if made is None else made,
            self.counts.cached_tokens if known is None else known,
        )

    def _count(self, given: Any) -> int | None:
        """Some servers count in JSON's floats."""
        if given is None:
            return None
        if type(given) is float and given.is_integer() and 0 <= given <= MAX_COUNT:
            return int(given)
        if type(given) is int and 0 <= given <= MAX_COUNT:
            return given
        self._ignore("usage")
        return None

    def _logprobs(self, given: Any) -> tuple[TokenLogprob, ...]:
        """In a chat's form, a list of objects, or in a completion's, a list of each of their fields."""
        if not given or self._bounds.candidates is None:
            return ()
        try:
            told = tuple(_text_logprobs(given) if "tokens" in given else _chat_logprobs(given))
        except (AttributeError, TypeError, KeyError, IndexError, ValueError):
            self._ignore("logprobs")
            return ()
        kept = tuple(
            replace(one, top_logprobs=one.top_logprobs[: self._bounds.candidates]) for one in told
        )
        for one in kept:
            self._charge(
                len(one.token)
                + sum(len(top.token) + _CHUNK_CHARACTERS for top in one.top_logprobs)
                + _CHUNK_CHARACTERS
            )
        return kept


def _is_first(index: Any) -> bool:
    return type(index) is not int or index == 0


def _text_logprobs(given: dict[str, Any]) -> Iterable[TokenLogprob]:
    tops = given.get("top_logprobs") or [None] * len(given["tokens"])
    for token, logprob, top in zip(given["tokens"], given["token_logprobs"], tops, strict=True):
        yield TokenLogprob(_token(token), _logprob(logprob), _ranked(dict(top or {}).items()))


def _chat_logprobs(given: dict[str, Any]) -> Iterable[TokenLogprob]:
    for one in given.get("content") or ():
        yield TokenLogprob(
            _token(one["token"]),
            _logprob(one["logprob"]),
            _ranked((top["token"], top["logprob"]) for top in one.get("top_logprobs") or ()),
        )


def _token(given: Any) -> str:
    if not isinstance(given, str) or len(given) > MAX_TOKEN_LENGTH:
        raise TypeError
    return given


def _logprob(given: Any) -> float:
    if given is None:
        return UNTOLD
    if isinstance(given, bool) or not isinstance(given, (int, float)):
        raise TypeError
    # No probability is over one; rounding may say a little more.
    return min(0.0, max(UNTOLD, float(given)))


def _ranked(told: Iterable[tuple[str, float]]) -> tuple[RankedToken, ...]:
    ranked = [RankedToken(_token(token), _logprob(logprob)) for token, logprob in told]
    return tuple(sorted(ranked, key=lambda one: one.logprob, reverse=True))
