"""The growth benchmark, in small: every step is timed at every size, every stream is whole, and plots are drawn."""

from __future__ import annotations

import math
from pathlib import Path

import orjson
import pytest

from benchmarks import growth
from benchmarks.growing.filling import Pressure, measure
from benchmarks.growing.fit import exponent
from benchmarks.growing.fleet import Load

pytestmark = pytest.mark.timeout(900)


async def run(tmp_path: Path, *parts: str, plots: Path | None = None) -> dict[str, list[object]]:
    found = tmp_path / "found.json"
    await growth.run(
        parts=parts,
        most=100,
        rounds=2,
        calls=10,
        workers=(1, 2),
        orchestrators=(1, 2),
        load=Load(streams=4, tokens=20, tokens_per_s=100),
        pressure=Pressure(1 << 20, 100, 10, 1, 30),
        plots=plots,
        json_path=found,
    )
    curves: dict[str, list[object]] = orjson.loads(found.read_bytes())
    return curves


async def test_each_step_has_a_curve_over_queues_and_logs(tmp_path: Path) -> None:
    curves = await run(tmp_path, "queue", "logs")
    assert len(curves) == 5
    for curve in (one for table in curves.values() for one in table):
        assert isinstance(curve, dict)
        assert curve["sizes"] == [10, 100]
        assert all(value >= 0 for row in curve["values"] for value in row)


async def test_streams_of_growing_fleets_are_whole(tmp_path: Path) -> None:
    # The clients check; one that gets anything else fails the run.
    assert len(await run(tmp_path, "fleet")) == 3


async def test_under_pressure_all_that_is_accepted_ends_and_the_bound_holds() -> None:
    pressure = Pressure(bound=2 << 20, prompt_tokens=5000, answer_tokens=50, seconds=3, keep_s=30)
    found = await measure(pressure)
    assert found.refused > 0
    assert found.ends == {"completed": found.accepted}
    assert found.most_counted <= pressure.bound


async def test_plots_are_drawn(tmp_path: Path) -> None:
    await run(tmp_path, "queue", plots=tmp_path)
    assert (tmp_path / "growth-queue.svg").read_text().count("<svg") == 1


def test_exponent_is_that_of_the_power_law() -> None:
    sizes = [10, 100, 1000]
    assert exponent(sizes, [7.0, 7.0, 7.0]) == pytest.approx(0)
    assert exponent(sizes, [3.0 * math.sqrt(size) for size in sizes]) == pytest.approx(0.5)
    assert exponent(sizes, [0.2 * size for size in sizes]) == pytest.approx(1)
