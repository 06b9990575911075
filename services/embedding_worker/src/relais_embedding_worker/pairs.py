"""Joins the tokens of one or two texts into what a model that classifies sequences reads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from relais_embedding_worker.encoder import Tokens


@dataclass(frozen=True, slots=True)
class PairTemplate:
    """The special tokens around the two texts of a pair, and each part's token type. A text alone has an empty second.

    Attributes:
        types: of the tokens before, of the first text, between, of the second text, and after; None if the model has
            none.
    """

    before: tuple[int, ...]
    between: tuple[int, ...]
    after: tuple[int, ...]
    types: tuple[tuple[int, ...], int, tuple[int, ...], int, tuple[int, ...]] | None

    def join(self, query: Tokens, document: Tokens, max_tokens: int) -> Tokens:
        """Return the pair, truncated as tokenizers do by `longest_first`."""
        room = max_tokens - len(self.before) - len(self.between) - len(self.after)
        first, second = _kept(len(query.ids), len(document.ids), room)
        lead = (*self.before, *query.ids[:first], *self.between)
        return Tokens(
            (*lead, *document.ids[:second], *self.after),
            truncated=query.truncated
            or document.truncated
            or first < len(query.ids)
            or second < len(document.ids),
            second_at=len(lead),
        )

    def types_of(self, pair: Tokens) -> list[int]:
        """Return the token type of each token; call it only where the model has types."""
        assert self.types is not None
        before, first, between, second, after = self.types
        if not pair.second_at:
            return [first] * len(pair.ids)
        first_length = pair.second_at - len(before) - len(between)
        second_length = len(pair.ids) - pair.second_at - len(after)
        return [
            *before,
            *[first] * first_length,
            *between,
            *[second] * second_length,
            *after,
        ]


def _kept(first: int, second: int, room: int) -> tuple[int, int]:
    """Return how much of two texts is kept: the longer one is cut, then both to halves."""
    shorter, longer = sorted((first, second))
    if shorter + longer > room:
        shorter = min(shorter, room // 2)
        longer = room - shorter
    return (longer, shorter) if first > second else (shorter, longer)


def read_template(tokenizer: Any, texts: int) -> PairTemplate:
    """Find out what a Hugging Face tokenizer puts around one text, or two."""
    one = len(tokenizer("a", add_special_tokens=False)["input_ids"])
    encoded = tokenizer(*["a"] * texts, return_special_tokens_mask=True, return_token_type_ids=True)
    ids, mask = encoded["input_ids"], encoded["special_tokens_mask"]
    first = mask.index(0)
    end = len(mask) - mask[::-1].index(0)
    second = end - one
    if texts == 1:
        second = end = len(ids)

    types = None
    if "token_type_ids" in tokenizer.model_input_names:
        given = encoded["token_type_ids"]
        types = (
            tuple(given[:first]),
            given[first],
            tuple(given[first + one : second]),
            given[min(second, len(given) - 1)],
            tuple(given[end:]),
        )
    return PairTemplate(
        before=tuple(ids[:first]),
        between=tuple(ids[first + one : second]),
        after=tuple(ids[end:]),
        types=types,
    )
