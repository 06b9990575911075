"""The comparison of embedding servers, in small: every side gives the same vectors, and every figure is there."""

from __future__ import annotations

import pytest

from benchmarks.embedding.report import LIMIT, PLAIN, RELAIS, bars, text
from benchmarks.embeddings import Load, measure

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


async def test_every_side_gives_the_same_vectors_and_every_figure() -> None:
    load = Load(
        clients=4, requests=8, threads=1, dtype="float32", encoding_format="float", infinity=None
    )
    rows = await measure(load, rounds=1)

    assert list(rows) == [LIMIT, PLAIN, RELAIS]
    for name, row in rows.items():
        assert row.texts_per_s > 0
        assert row.difference < 1e-5
        if name != LIMIT:
            assert row.single_p50_ms is not None
            assert row.single_p99_ms is not None
            assert 0 < row.single_p50_ms <= row.single_p99_ms
    assert set(rows[RELAIS].cpu_ms) == {"orchestrator", "worker", "redis", "client"}
    assert RELAIS in text(rows)
    assert len(bars(rows)) == 3
