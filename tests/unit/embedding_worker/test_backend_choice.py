"""The choice of a backend: the fastest one that agrees with the reference, whatever else fails."""

from __future__ import annotations

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
    assert fastest(candidates, lambda one: made[one]) is made[expected]


def test_a_candidate_is_measured_on_batches_no_larger_than_a_worker_s(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(choice, "MEASURE_S", 0.0)
    encoder = WatchedEncoder()
    assert fastest([REFERENCE], lambda _: encoder) is encoder
    lengths = [one for batch in encoder.batches for one in batch]
    assert max(lengths) > 5 * min(lengths)
    assert all(
        len(batch) * max(batch) <= encoder.info.batch_tokens or len(batch) == 1
        for batch in encoder.batches
    )
