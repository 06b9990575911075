"""The benchmark of short requests, in small: both servers give every client the right whole answers."""

from __future__ import annotations

import pytest

from benchmarks.answering import report
from benchmarks.answering.report import REFERENCE, RELAIS
from benchmarks.short import Load, measure

# They come with vLLM's requirements.

pytestmark = pytest.mark.timeout(900)


async def test_every_answer_is_whole_and_right() -> None:
    # The client checks; one that gets anything else fails the run.
    loads = [Load(3, 4, tokens) for tokens in (1, 8, 0)]
    tables = await measure(loads, 1, names=[REFERENCE, RELAIS], appendfsync="always")
    assert len(tables) == len(loads)
    for measured in tables:
        assert len(measured[0][RELAIS].latencies_s) == 12
        assert RELAIS in report.text(measured)
