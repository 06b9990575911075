"""Texts of mixed lengths, and requests with one to 32 of them: the same ones whenever the seed is."""

from __future__ import annotations

import random

SIZES = (1, 1, 1, 2, 4, 8, 16, 32)
"""Inputs of a request, each as likely."""
RERANK = "rerank"
"""The format of requests that rank documents."""
_QUERY_WORDS = 8
_WORDS = (
    "the a of to and in is it was for on with as at by from this that have not are they were people office "
    "town hall counter queue waiting hours morning afternoon letter answer request form service citizen street "
    "school road bus station doctor hospital water electricity tax permit licence renewal appointment cancelled "
    "again because nobody could explain why documents which had been sent twice were missing accessibility "
    "parking garden library swimming pool closed without notice thanks helpful friendly quick unacceptable"
).split()
_MEDIAN_WORDS, _SPREAD, _MOST_WORDS = 25, 1.0, 300


def make_requests(count: int, seed: int) -> list[list[str]]:
    """Many short texts and some long ones: a median of 25 words, a tenth over 90, some cut by the model."""
    rng = random.Random(seed)
    return [[_text(rng) for _ in range(rng.choice(SIZES))] for _ in range(count)]


def query_of(documents: list[str]) -> str:
    """What a request that ranks these documents asks for: the first words of the last one."""
    return " ".join(documents[-1].split()[:_QUERY_WORDS])


def _text(rng: random.Random) -> str:
    words = min(_MOST_WORDS, max(2, round(_MEDIAN_WORDS * rng.lognormvariate(0, _SPREAD))))
    return " ".join(rng.choices(_WORDS, k=words)).capitalize() + "."
