"""The comparison of embedding servers, in small: every side gives the same vectors, and every figure is there."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.embedding.report import LIMIT, PLAIN, RELAIS, bars, text
from benchmarks.embedding.texts import RERANK
from benchmarks.embeddings import Load, measure

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def small(folder: Path, encoding_format: str, *backends: str) -> Load:
    return Load(4, 8, 1, backends, encoding_format, folder)


async def test_every_side_gives_the_same_vectors_and_every_figure(tmp_path: Path) -> None:
    rows = await measure(small(tmp_path, "float", "torch", "openvino:float32"), rounds=1)

    served = [PLAIN, RELAIS, f"{RELAIS} openvino:float32"]
    assert list(rows) == [LIMIT, "openvino:float32 alone", *served]
    for name, row in rows.items():
        assert row.texts_per_s > 0
        assert row.difference < 1e-5
        assert row.cosine > 0.99999
        if name in served:
            assert row.single_p50_ms is not None
            assert row.single_p99_ms is not None
            assert 0 < row.single_p50_ms <= row.single_p99_ms
    assert set(rows[RELAIS].cpu_ms) == {"orchestrator", "worker", "redis", "client"}
    assert RELAIS in text(rows)
    assert len(bars(rows)) == 6


async def test_rerankers_are_compared_with_the_library_s_own(tmp_path: Path) -> None:
    rows = await measure(small(tmp_path, RERANK, "torch"), rounds=1)

    assert list(rows) == [LIMIT, RELAIS]
    assert all(row.texts_per_s > 0 and row.difference < 1e-4 for row in rows.values())
    assert len(bars(rows)) == 1
