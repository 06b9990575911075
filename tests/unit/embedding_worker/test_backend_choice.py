"""The choice of a backend: the fastest one that agrees with the reference, whatever else fails."""

from __future__ import annotations

import weakref
from collections.abc import Sequence

import numpy as np
import pytest

from relais_embedding_worker.backends import choice
from relais_embedding_worker.backends.choice import REFERENCE, Candidate, fastest
from relais_embedding_worker.encoder import Tokens, Vectors
from relais_testing.encoders import WatchedEncoder, WatchedReranker

FAST = Candidate("openvino", "float32")
ROUGH = Candidate("openvino", "bfloat16")
SLOW = Candidate("onnx", "float32")
BROKEN = Candidate("onnx", "broken")
RATES = {REFERENCE: 100.0, FAST: 400.0, ROUGH: 900.0, SLOW: 50.0}


class Watched(WatchedEncoder):
    """An encoder whose vectors are off by this much in one number."""

    def __init__(self, off: float) -> None:
        super().__init__()
        self._off = off

    def encode(self, batch: Sequence[Tokens]) -> Vectors:
        rows = super().encode(batch)
        rows[:, 0] += self._off
        return rows


class WatchedScores(WatchedReranker):
    """A reranker whose scores are off by this much."""

    def __init__(self, off: float) -> None:
        super().__init__()
        self._off = off

    def encode(self, batch: Sequence[Tokens]) -> Vectors:
        return super().encode(batch) + np.float32(self._off)


@pytest.fixture(params=[Watched, WatchedScores])
def made(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> dict[Candidate, Watched | WatchedScores]:
    """Every encoder, by what it was opened for; their speeds are those of `RATES`."""
    encoders = {
        one: request.param({ROUGH: 0.2, FAST: 1e-4}.get(one, 0.0))
        for one in (REFERENCE, FAST, ROUGH, SLOW)
    }
    rates = {id(encoder): RATES[one] for one, encoder in encoders.items()}
    monkeypatch.setattr(choice, "_rate", lambda encoder, _: rates[id(encoder)])
    return encoders


@pytest.mark.parametrize(
    ("candidates", "expected"),
    [
        ([REFERENCE, FAST, ROUGH, SLOW], FAST),
        ([REFERENCE, BROKEN, ROUGH, SLOW], REFERENCE),
        ([SLOW], SLOW),
        ([ROUGH], REFERENCE),
        ([], REFERENCE),
    ],
)
def test_the_fastest_that_agrees_is_chosen(
    made: dict[Candidate, Watched], candidates: list[Candidate], expected: Candidate
) -> None:
    assert fastest(candidates, lambda one: made[one]) == (made[expected], expected)


def test_what_gives_no_numbers_once_is_not_chosen(made: dict[Candidate, Watched]) -> None:
    encode = made[FAST].encode
    batches = 0

    def encode_first_alone(batch: Sequence[Tokens]) -> Vectors:
        nonlocal batches
        batches += 1
        return encode(batch) if batches == 1 else np.full_like(encode(batch), np.nan)

    made[FAST].encode = encode_first_alone  # type: ignore[method-assign]
    assert fastest([REFERENCE, FAST], lambda one: made[one]) == (made[REFERENCE], REFERENCE)
    assert batches > 1


def test_what_failed_is_gone_before_the_next_one_is_opened(made: dict[Candidate, Watched]) -> None:
    failed: list[weakref.ref[Watched]] = []

    def open_one(one: Candidate) -> Watched:
        if one == BROKEN:
            encoder = Watched(0.0)
            encoder.poison = frozenset({0})
            # As models do.
            encoder.itself = encoder  # type: ignore[attr-defined]
            failed.append(weakref.ref(encoder))
            return encoder
        assert not any(ref() for ref in failed)
        return made[one]

    assert fastest([BROKEN, FAST], open_one) == (made[FAST], FAST)
    assert failed


def test_a_candidate_is_measured_on_batches_no_larger_than_a_worker_s(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(choice, "MEASURE_S", 0.0)
    encoder = WatchedEncoder()
    assert fastest([REFERENCE], lambda _: encoder) == (encoder, REFERENCE)
    lengths = [one for batch in encoder.batches for one in batch]
    assert max(lengths) > 5 * min(lengths)
    assert all(
        len(batch) * max(batch) <= encoder.info.batch_tokens or len(batch) == 1
        for batch in encoder.batches
    )
