"""The capacity benchmark, in small: it measures fleets, keeps what it found, and prints every table of it."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import orjson
import pytest

from benchmarks import capacity
from benchmarks.capacity import Loads, measure_all
from benchmarks.planning.loads import CLIENTS, MONGODB, ORCHESTRATORS, REDIS, WORKERS, Fleet, Load

pytestmark = pytest.mark.timeout(900)


async def test_fleets_are_measured_and_their_tables_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    learnt: Loads = {(Fleet(1, 1, traces=True), 200.0): [Load(3, 2, 20, 200.0)]}
    foretold: Loads = {(Fleet(2, 2), 0.0): [Load(4, 1, 20)]}
    found = await measure_all(learnt, foretold, idle_s=0.2, tries=1)
    # The clients check; one that gets anything but its tokens fails the run.
    idle, run = found.learnt
    assert run.counts.tokens == 3 * 2 * 20
    assert run.counts.entries > 0
    assert run.counts.calls > 0
    assert set(run.cpu_s) == {ORCHESTRATORS, WORKERS, REDIS, CLIENTS, MONGODB}
    assert all(run.turns[part] > 0 for part in (ORCHESTRATORS, WORKERS, CLIENTS))
    assert idle.counts.tokens == 0

    kept = tmp_path / "found.json"
    kept.write_bytes(orjson.dumps(asdict(found)))
    monkeypatch.setattr(capacity, "DEMANDS", capacity.DEMANDS[:1])
    monkeypatch.setattr(capacity, "GROWN", capacity.GROWN[:2])
    monkeypatch.setattr(capacity, "SLOT_WORKERS", (1, 2))
    await capacity.run(json_path=None, from_path=kept, tries=1, plots=tmp_path)
    printed = capsys.readouterr().out
    assert "2 x 2 | 4 streams of 20 tokens" in printed
    assert "full first" in printed
    assert "of Redis's core" in printed
    assert (tmp_path / "capacity.svg").exists()
