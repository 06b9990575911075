"""The KPI benchmark, in small: the job in processes of its own; its percentiles are within the stated error."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest

from benchmarks import kpi
from relais_common.insights.sketch import RELATIVE_ERROR


@pytest.mark.timeout(900)
async def test_percentiles_and_memory_keep_their_bars(tmp_path: Path) -> None:
    found = tmp_path / "found.json"

    await kpi.run(traces=3000, days=3, folder=None, fill_only=False, json_path=found)

    bars = orjson.loads(found.read_bytes())
    assert bars["largest error of a percentile"] <= RELATIVE_ERROR
    assert 0 < bars["memory of the job, MB"] < kpi.MAX_MEMORY_BYTES / 1e6
    assert bars["documents read for 24 hours, share of traces"] > 0
