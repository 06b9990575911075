"""The chunks of one answer, as servers write them: what is known of them is read, what is not is left out and counted.

Every value comes from elsewhere: a wrong type, a number out of range or an unknown word reaches neither clients nor
Redis. Each field is checked by itself, so that one that is wrong does not cost the others.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Annotated, Any, NoReturn

import msgspec
import orjson
from msgspec import Meta

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

_Object = dict[str, Any]
_TokenId = Annotated[int, Meta(ge=0, le=MAX_TOKEN_ID)]
_TokenIds = tuple[_TokenId, ...]
_StopReason = TokenText | _TokenId
# Some servers count in JSON's floats.
_Count = (
    Annotated[int, Meta(ge=0, le=MAX_COUNT)]
    | Annotated[float, Meta(ge=0, le=MAX_COUNT, multiple_of=1)]
)


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
        chunk = self._checked(_Object, "event", chunk)
        if chunk is None:
            return None
        if chunk.get("error") or event.name == b"error":
            self._fail(chunk)
        if usage := self._checked(_Object, "usage", chunk.get("usage")):
            self._note_usage(usage)
        choice = self._choice(self._checked(list, "choices", chunk.get("choices")) or [])
        if choice is None:
            return None
        delta = self._checked(_Object, "choices", choice.get("delta")) or {}
        text, aside = self._text(choice.get("text") or delta.get("content"))
        aside = aside or any(map(delta.get, _ASIDE))
        self.said_something = self.said_something or aside or bool(text)
        return Delta(
            text=text,
            token_ids=self._token_ids(choice.get("token_ids")),
            prompt_token_ids=self._prompt_ids(
                chunk.get("prompt_token_ids") or choice.get("prompt_token_ids")
            ),
            finish_reason=self._reason(choice.get("finish_reason")),
            stop_reason=self._checked(_StopReason, "stop_reason", choice.get("stop_reason")),
            aside=aside,
            counts=self.counts,
            logprobs=self._logprobs(choice.get("logprobs")),
        )

    def _checked(self, kind: Any, field: str, given: Any) -> Any:
        """The value, if it is of this kind. If not, it is counted as left out, and None is returned."""
        if given is None:
            return None
        try:
            return msgspec.convert(given, kind)
        except msgspec.ValidationError:
            self._ignore(field)
            return None

    def _choice(self, choices: list[Any]) -> dict[str, Any] | None:
        """The only one that was asked for."""
        fit = [one for one in choices if isinstance(one, dict) and _is_first(one.get("index"))]
        if len(fit) != len(choices) or len(fit) > 1:
            self._ignore("choices")
        return fit[0] if fit else None

    def _text(self, content: Any) -> tuple[str, bool]:
        """A chunk's text, and whether there is something beside it. Some servers send parts, as clients do."""
        if isinstance(content, str):
            self._charge(len(content))
            return content, False
        texts = []
        aside = False
        for part in self._checked(list, "content", content) or []:
            match part:
                case {"type": "text", "text": str(text)}:
                    texts.append(text)
                case {"type": "thinking" | "reasoning"}:
                    aside = True
                case _:
                    self._ignore("content")
        self._charge(sum(map(len, texts)), 0 if content is None else 1)
        return "".join(texts), aside

    def _charge(self, characters: int, pieces: int = 1) -> None:
        self._characters -= characters + pieces * _CHUNK_CHARACTERS
        if self._characters < 0:
            raise TooMuch

    def _token_ids(self, given: Any) -> tuple[int, ...] | None:
        ids: tuple[int, ...] | None = self._checked(_TokenIds, "token_ids", given)
        self._ids -= len(ids or ())
        if self._ids < 0:
            raise TooMuch
        return ids

    def _prompt_ids(self, given: Any) -> tuple[int, ...] | None:
        ids: tuple[int, ...] | None = self._checked(_TokenIds, "token_ids", given)
        if len(ids or ()) > self._bounds.prompt_tokens:
            self._ignore("token_ids")
            return None
        return ids

    def _reason(self, given: Any) -> str | None:
        word = (self._checked(str, "finish_reason", given) or "").lower()
        if word in _NO_END:
            raise Lost(f"the server ended the request: {word}")
        if word not in _REASONS:
            self._ignore("finish_reason")
        return _REASONS.get(word)

    def _note_usage(self, usage: dict[str, Any]) -> None:
        details = usage.get("prompt_tokens_details")
        told = {
            "input_tokens": usage.get("prompt_tokens"),
            "output_tokens": usage.get("completion_tokens"),
            "cached_tokens": details.get("cached_tokens") if isinstance(details, dict) else None,
        }
        for name, given in told.items():
            count = self._checked(_Count, "usage", given)
            if count is not None:
                self.counts = replace(self.counts, **{name: int(count)})

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
