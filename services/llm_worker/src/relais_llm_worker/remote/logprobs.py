"""Log probabilities, in the two forms of OpenAI's API."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from relais_common.jobs.events import RankedToken, TokenLogprob

UNTOLD = -9999.0  # vLLM's own word for a logarithm that it does not have
TokenText = Annotated[str, Meta(max_length=512)]


class _Token(Struct):
    token: TokenText
    logprob: float | None
    top_logprobs: list[_Token] | None = None


class _OfChat(Struct):
    content: list[_Token] | None = None


class _OfCompletion(Struct):
    tokens: list[TokenText]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[TokenText, float | None] | None] | None = None


def read_logprobs(given: Any, candidates: int) -> tuple[TokenLogprob, ...]:
    """Read a chat's list of objects, or a completion's list for each of their fields.

    Args:
        candidates: maximum kept for each token.

    Raises:
        ValueError: it has neither form.
    """
    if isinstance(given, dict) and "tokens" in given:
        lists = msgspec.convert(given, _OfCompletion)
        tops = lists.top_logprobs or [None] * len(lists.tokens)
        tokens = [
            _Token(token, logprob, [_Token(*pair) for pair in (top or {}).items()])
            for token, logprob, top in zip(lists.tokens, lists.token_logprobs, tops, strict=True)
        ]
    else:
        tokens = msgspec.convert(given, _OfChat).content or []
    return tuple(
        TokenLogprob(one.token, _clamped(one), _ranked(one.top_logprobs or [])[:candidates])
        for one in tokens
    )


def _ranked(tokens: list[_Token]) -> tuple[RankedToken, ...]:
    ranked = [RankedToken(one.token, _clamped(one)) for one in tokens]
    return tuple(sorted(ranked, key=lambda one: one.logprob, reverse=True))


def _clamped(one: _Token) -> float:
    # No probability is over one; rounding may say a little more.
    return UNTOLD if one.logprob is None else min(0.0, max(UNTOLD, one.logprob))
