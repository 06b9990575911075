"""A pair is cut as tokenizers do by `longest_first`: the longer text first, then both to halves."""

from __future__ import annotations

import pytest

from relais_embedding_worker.encoder import Tokens
from relais_embedding_worker.pairs import PairTemplate

TEMPLATE = PairTemplate(
    before=(-1,), between=(-2, -3), after=(-4,), types=((7,), 0, (8, 8), 1, (9,))
)
MAX_TOKENS = 13
"""Of which nine are the texts'."""


def text(length: int, *, truncated: bool = False) -> Tokens:
    return Tokens(tuple(range(length)), truncated=truncated)


@pytest.mark.parametrize(
    ("lengths", "kept"),
    [
        ((0, 0), (0, 0)),
        ((4, 5), (4, 5)),
        ((3, 50), (3, 6)),
        ((50, 3), (6, 3)),
        ((4, 50), (4, 5)),
        ((50, 60), (4, 5)),
        ((60, 50), (5, 4)),
        ((50, 50), (4, 5)),
        ((0, 50), (0, 9)),
    ],
)
def test_longer_text_is_cut_first(lengths: tuple[int, int], kept: tuple[int, int]) -> None:
    first, second = kept
    pair = TEMPLATE.join(text(lengths[0]), text(lengths[1]), MAX_TOKENS)
    assert pair.ids == (-1, *range(first), -2, -3, *range(second), -4)
    assert pair.truncated == (lengths != kept)
    assert TEMPLATE.types_of(pair) == [7, *[0] * first, 8, 8, *[1] * second, 9]


@pytest.mark.parametrize("which", [0, 1])
def test_pair_of_a_truncated_text_is_truncated(which: int) -> None:
    texts = [text(2), text(2)]
    texts[which] = text(2, truncated=True)
    assert TEMPLATE.join(texts[0], texts[1], MAX_TOKENS).truncated
