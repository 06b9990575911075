"""Chooses the fastest of several encoders of one model whose answers agree with the first one's."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import structlog

from relais_common.jobs.job import InputType
from relais_embedding_worker.encoder import Classifier, Encoder, Reranker, Tokens, Vectors

log = structlog.get_logger(__name__)

Some = TypeVar("Some", bound=Encoder)

MOST_OFF = 0.001
"""Largest difference from fp32 torch: 1 - cosine of any vector, or of any score or probability."""

MEASURE_S = 1.0
"""Time for which each candidate is measured, after a first run that is not counted."""

_SENTENCES = (
    "The town hall opens at nine on weekdays.",
    "Où puis-je renouveler mon passeport ?",
    "Das Schwimmbad bleibt wegen Bauarbeiten bis März geschlossen.",
    "Water came out brown on Tuesday, and nobody has said when it will be fixed.",
)
_REPEATS = (1, 1, 1, 2, 2, 4, 8, 16)
"""How often each sentence is repeated, for texts of mixed lengths."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A backend, and the precision in which it computes."""

    backend: str
    dtype: str


REFERENCE = Candidate("torch", "float32")


def fastest(
    candidates: Iterable[Candidate], open_encoder: Callable[[Candidate], Some]
) -> tuple[Some, Candidate]:
    """Measure candidates on a few sentences and return the fastest that agrees with fp32 torch, opened.

    One that cannot be opened is logged and left out. Without any, the reference is returned.
    """
    best = open_encoder(REFERENCE)
    batches = _probes(best)
    expected = [best.encode(batch) for batch in batches]
    wanted = list(candidates)
    reference_rate, chosen = _rate(best, batches), REFERENCE
    _report(REFERENCE, reference_rate, 0.0)
    best_rate = reference_rate if REFERENCE in wanted else 0.0
    for candidate in wanted:
        if candidate == REFERENCE:
            continue
        tried = _try(candidate, open_encoder, batches, expected)
        if tried is not None and tried[1] > best_rate:
            best, best_rate, chosen = *tried, candidate
        # The next one needs the memory.
        del tried
        gc.collect()
    log.info("backend_chosen", backend=chosen.backend, dtype=chosen.dtype)
    return best, chosen


def _try(
    candidate: Candidate,
    open_encoder: Callable[[Candidate], Some],
    batches: Sequence[Sequence[Tokens]],
    expected: Sequence[Vectors],
) -> tuple[Some, float] | None:
    """Return a candidate, opened, and its tokens per second; None if it fails or does not agree."""
    try:
        encoder = open_encoder(candidate)
        off = _most_off(encoder, batches, expected)
        rate = _rate(encoder, batches)
    except Exception:
        log.exception("backend_failed", backend=candidate.backend, dtype=candidate.dtype)
        return None
    _report(candidate, rate, off)
    return (encoder, rate) if off <= MOST_OFF else None


def _report(candidate: Candidate, rate: float, off: float) -> None:
    log.info(
        "backend_measured",
        backend=candidate.backend,
        dtype=candidate.dtype,
        tokens_per_s=round(rate),
        off=float(f"{off:.1e}"),
        agrees=off <= MOST_OFF,
    )


def _probes(encoder: Encoder) -> list[list[Tokens]]:
    """Return batches as a busy worker forms them."""
    texts = [" ".join([one] * times) for times in _REPEATS for one in _SENTENCES]
    tokens = _tokens(encoder, texts, InputType.PASSAGE)
    if isinstance(encoder, Reranker):
        (query,) = _tokens(encoder, [_SENTENCES[0]], InputType.QUERY)
        tokens = [encoder.pair(query, document) for document in tokens]
    if isinstance(encoder, Classifier):
        most = encoder.info.max_tokens
        tokens = [encoder.complete(one, most, special_tokens=True) for one in tokens]
    batches: list[list[Tokens]] = []
    for one in sorted(tokens, key=lambda each: len(each.ids)):
        last = batches[-1] if batches else []
        if not last or (len(last) + 1) * len(one.ids) > encoder.info.batch_tokens:
            batches.append(last := [])
        last.append(one)
    return batches


def _tokens(encoder: Encoder, texts: Sequence[str], input_type: InputType) -> list[Tokens]:
    reach = max(map(len, texts))
    return [one for one in encoder.tokenize(texts, input_type, reach) if one is not None]


def _rate(encoder: Encoder, batches: Sequence[Sequence[Tokens]]) -> float:
    """Return the tokens per second of the fastest run."""
    tokens = sum(len(one.ids) for batch in batches for one in batch)
    runs_s: list[float] = []
    while not runs_s or sum(runs_s) < MEASURE_S:
        began_s = time.perf_counter()
        for batch in batches:
            encoder.encode(batch)
        runs_s.append(time.perf_counter() - began_s)
    return tokens / min(runs_s)


def _most_off(
    encoder: Encoder, batches: Sequence[Sequence[Tokens]], expected: Sequence[Vectors]
) -> float:
    scores = isinstance(encoder, (Reranker, Classifier))
    offs = [
        _off(encoder.encode(batch), rows, scores)
        for batch, rows in zip(batches, expected, strict=True)
    ]
    # Not a number if any is: Python's `max` may drop it.
    return float(np.max(offs))


def _off(rows: Vectors, expected: Vectors, scores: bool) -> float:
    if scores:
        return float(np.abs(rows - expected).max())
    lengths = np.linalg.norm(rows, axis=1) * np.linalg.norm(expected, axis=1)
    return float(1.0 - (np.sum(rows * expected, axis=1) / lengths).min())
