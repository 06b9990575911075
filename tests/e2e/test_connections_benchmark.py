"""The connections benchmark, in small: it runs, and late readers, or ones that never read, cost no stream anything."""

from __future__ import annotations

import pytest

from benchmarks.connections import Load, measure

pytestmark = pytest.mark.timeout(900)

NOTHING_LOST = (
    "tokens lost",
    "10 at once read a log of 500: first, last event",
    "of them cut off in time",
    "streams cut",
)


@pytest.mark.realtime  # a reader that does not read is told from a slow one by the time it takes
@pytest.mark.parametrize("kind", ["native", "openai"])
async def test_nothing_is_lost(kind: str) -> None:
    load = Load(
        streams=40, watch_s=1, token_every_s=1, late_events=500, late_s=1, write_timeout_s=1
    )
    verdicts = {line.what.strip(): line.ok for line in await measure(kind, load)}
    assert {what: verdicts[what] for what in NOTHING_LOST} == dict.fromkeys(NOTHING_LOST, True)
