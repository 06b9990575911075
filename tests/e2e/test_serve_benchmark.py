"""The comparison with `vllm serve`, in small: both answer, to the letter alike, and every figure is there."""

from __future__ import annotations

import pytest

from benchmarks.serve import Load, measure
from benchmarks.serving.report import PEER, RELAIS, bars, text

pytestmark = [pytest.mark.vllm, pytest.mark.slow, pytest.mark.timeout(900)]


async def test_both_give_the_same_answers_and_every_figure() -> None:
    # The client fails the run unless every answer is whole and as long as was asked for.
    loads = [Load(clients=1, requests=2, tokens=8, client="ours"), Load(16, 1, 8, "ours")]
    tables = await measure(loads, rounds=1, names=(PEER, RELAIS))
    for load in loads:
        rows = tables[load.clients]
        assert list(rows) == [PEER, RELAIS]
        for row in rows.values():
            assert row.texts == load.clients * load.requests
            assert row.tokens_per_s > 0
            assert 0 < row.first_p50_ms <= row.first_p99_ms
        assert set(rows[PEER].cpu_us) == {"server", "engine"}
        assert set(rows[RELAIS].cpu_us) == {"orchestrator", "worker", "engine", "redis"}
        assert RELAIS in text(rows)
    # One at a time, no batch can flip a near-tie.
    assert tables[1][RELAIS].same_texts == 2
    assert len(bars(tables)) == 4


async def test_both_make_the_same_calls_where_they_must() -> None:
    # The client fails the run unless every call's arguments are JSON with the right fields.
    load = Load(clients=2, requests=1, tokens=0, client="ours")
    rows = (await measure([load], rounds=1, names=(PEER, RELAIS)))[2]
    assert [row.texts for row in rows.values()] == [2, 2]
    assert rows[RELAIS].same_texts == 2
    assert all(row.tokens_per_s > 0 for row in rows.values())
