"""What a load needs: measured costs, a discrete-event model made of them, and a plan past one machine.

1. Real fleets run under a few loads, with the deterministic engine. The CPU time of each part is divided among what it
   did: requests, calls of `append`, streams and tokens in them, open streams.
2. A model of the same fleets (`planning.simulation`) says from these costs how fast fleets are that were not used for
   them, and how busy their parts are. A table has this beside what was measured.
3. The model says what larger loads need, and where one model's slot of Redis is full.

`--json FILE` keeps what was measured, and `--from FILE` makes all tables of it without measuring again.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import orjson

from benchmarks.planning import report
from benchmarks.planning.costs import Costs, fit
from benchmarks.planning.fleet import idle, measure, started
from benchmarks.planning.loads import Counts, Fleet, Load, Run
from benchmarks.planning.plan import Demand, plan, slot
from benchmarks.planning.simulation import Machine, simulate
from relais_common.worker.publisher import AT_ONCE_PER_S

HELP = "what each part costs, and how many a load needs"

PACE = 40.0
"""Tokens per second of a stream, where it has a pace."""

LEARNT = {
    (Fleet(1, 1), PACE): [Load(8, 1, 240, PACE), Load(64, 1, 240, PACE), Load(192, 1, 240, PACE)],
    (Fleet(1, 1), 0.0): [
        *(Load(32, 1, 8000), Load(8, 1, 8000), Load(32, 40, 1), Load(32, 30, 16)),
        Load(16, 20, 1, prompt=20_000),
    ],
    (Fleet(1, 1), 0.25): [Load(600, 1, 3, 0.25)],
    (Fleet(1, 1, traces=True), 0.0): [Load(32, 40, 1)],
    (Fleet(4, 8), PACE): [Load(64, 1, 240, PACE), Load(256, 1, 240, PACE)],
}
"""Loads from which the costs are fitted, by fleet and pace."""

FORETOLD = {
    (Fleet(1, 4), PACE): [Load(32, 1, 240, PACE), Load(128, 1, 240, PACE)],
    (Fleet(1, 8), PACE): [Load(64, 1, 240, PACE)],
    (Fleet(4, 1), PACE): [Load(64, 1, 240, PACE)],
    (Fleet(2, 4), PACE): [Load(128, 1, 240, PACE), Load(900, 1, 120, PACE)],
    (Fleet(2, 4), 0.0): [Load(32, 1, 8000), Load(32, 40, 1), Load(32, 30, 16)],
    (Fleet(4, 8), 0.0): [Load(64, 1, 4000)],
}
"""Loads that only test the model."""

IDLE_S = 8.0
LONGEST_HOP_S, HALVINGS = 0.02, 10
DEMANDS = [
    Demand(streams, workers) for streams in (1_000, 10_000, 100_000) for workers in (10, 100, 1_000)
]
GROWN = [Demand(64 * workers, workers) for workers in (4, 16, 64, 256, 1_024)]
SLOT, SLOT_WORKERS = Demand(64, 1), (1, 2, 4, 6, 8, 10, 12, 16, 20, 24)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Of `run`."""
    add = parser.add_argument
    add("--json", type=Path, dest="json_path", help="file for what is measured")
    add("--from", type=Path, dest="from_path", help="such a file: measure nothing")
    add("--tries", type=int, default=1, help="of each load, while other programs are busy")
    add("--plots", type=Path, help="folder for the plot")


@dataclass(frozen=True, slots=True)
class Measured:
    """All that was measured on a machine.

    Attributes:
        engine: microseconds of the engine's tokens alone.
        sync_s: how long its disk takes to sync.
        learnt: runs from which costs are fitted.
        foretold: runs that only test them.
    """

    cores: int
    engine: dict[str, float]
    sync_s: float
    learnt: list[Run]
    foretold: list[Run]


Loads = dict[tuple[Fleet, float], list[Load]]


async def measure_all(learnt: Loads, foretold: Loads, idle_s: float, tries: int) -> Measured:
    """Run every fleet under its loads; lines on stderr say how far it is.

    Args:
        tries: how often a load runs at most, until other programs are quiet meanwhile; the quietest run counts.
    """
    return Measured(
        cores=os.cpu_count() or 1,
        engine=await _engine(),
        sync_s=await asyncio.to_thread(_sync_s),
        learnt=await _runs(learnt, idle_s, tries),
        foretold=await _runs(foretold, 0.0, tries),
    )


async def _runs(loads: Loads, idle_s: float, tries: int) -> list[Run]:
    runs = []
    for (fleet, tokens_per_s), some in loads.items():
        async with started(fleet, tokens_per_s) as on:
            if idle_s:
                runs.append(await idle(on, idle_s))
            for number, load in enumerate(some):
                tried: list[Run] = []
                while len(tried) < tries and all(run.others > report.BUSY for run in tried):
                    run = await measure(on, load, f"load {number}, {len(tried)}")
                    told = f"{run.tokens_per_s:,.0f} tokens/s, others {run.others:.2f} cores"
                    print(f"{fleet}, {load}: {told}", file=sys.stderr, flush=True)
                    tried.append(run)
                runs.append(min(tried, key=lambda run: run.others))
    return runs


async def _engine() -> dict[str, float]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "benchmarks.planning.engine", stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate()
    found: dict[str, float] = orjson.loads(out)
    return found


def _sync_s() -> float:
    """Return the median time of a sync of a file that grew by a page."""
    took_s = []
    with tempfile.TemporaryFile() as file:
        for _ in range(100):
            file.write(b"x" * 4096)
            file.flush()
            began_s = time.perf_counter()
            os.fdatasync(file.fileno())
            took_s.append(time.perf_counter() - began_s)
    return statistics.median(took_s)


def _read(path: Path) -> Measured:
    told = orjson.loads(path.read_bytes())

    def runs(some: Sequence[dict[str, object]]) -> list[Run]:
        return [
            Run(
                Fleet(**one["fleet"]),  # type: ignore[arg-type]
                Load(**one["load"]),  # type: ignore[arg-type]
                Counts(**one["counts"]),  # type: ignore[arg-type]
                one["cpu_s"],  # type: ignore[arg-type]
                one["turns"],  # type: ignore[arg-type]
                one["others"],  # type: ignore[arg-type]
            )
            for one in some
        ]

    return Measured(**{**told, **{name: runs(told[name]) for name in ("learnt", "foretold")}})


def _machine(measured: Measured, costs: Costs) -> Machine:
    """Return the machine, with hops so long that the calls of the first run that has any take as long as measured."""
    on = Machine(
        cores=measured.cores,
        sync_s=measured.sync_s,
        hop_s=0.0,
        at_once_per_s=min(AT_ONCE_PER_S, 1600 * measured.cores),
    )
    run = next(run for run in measured.learnt if run.counts.calls)
    least_s, most_s = 0.0, LONGEST_HOP_S
    for _ in range(HALVINGS):
        on = replace(on, hop_s=(least_s + most_s) / 2)
        found = simulate(run.fleet, run.load, costs, on).run.counts
        if found.call_s / found.calls < run.counts.call_s / run.counts.calls:
            least_s = on.hop_s
        else:
            most_s = on.hop_s
    return on


def say(measured: Measured, plots: Path | None) -> bool:
    """Print all tables, and draw the plot. Returns whether every figure that was foretold is near the measured one."""
    costs = fit(measured.learnt, measured.engine)
    print(f"{measured.cores} cores, a sync takes {measured.sync_s * 1e3:.2f} ms\n")
    print(report.costs_table(costs))
    on = _machine(measured, costs)
    print(f"\nA hop takes {on.hop_s * 1e3:.2f} ms")
    print("\nPredicted, measured: tokens/s, and CPU of a token in µs")
    met = True
    for title, runs in (("learnt from", measured.learnt), ("foretold", measured.foretold)):
        worked = [run for run in runs if run.counts.tokens]
        found = [simulate(run.fleet, run.load, costs, on) for run in worked]
        good, of = report.near(worked, found)
        met = good == of
        print(f"\nRuns {title}: {good} of {of} figures within {report.NEAR:.0%}\n")
        print(report.checks_table(worked, found))
        good, of = report.near_by_counts(worked, costs)
        print(f"\nWith calls and turns as counted, not simulated: {good} of {of} CPU times")
    if any(run.others > report.BUSY for run in measured.foretold):
        print("\nOther programs ran meanwhile: rates and calls say little.")
    plans = [plan(demand, costs, on) for demand in DEMANDS]
    print(f"\n{report.plans_table(plans)}")
    of_slot = slot(SLOT, SLOT_WORKERS, costs, on)
    print(f"\nOne model, workers of {SLOT.streams} streams each\n\n{report.slot_table(of_slot)}")
    if plots is not None:
        from benchmarks.planning.plots import drawn

        grown = [plan(demand, costs, on) for demand in GROWN]
        plots.mkdir(parents=True, exist_ok=True)
        drawn(plots / "capacity.svg", grown, of_slot)
    return met


async def run(
    *, json_path: Path | None, from_path: Path | None, tries: int, plots: Path | None
) -> bool:
    """Measure, or read what was measured, and print the tables. False where a foretold figure is off."""
    if from_path is not None:
        measured = await asyncio.to_thread(_read, from_path)
    else:
        measured = await measure_all(LEARNT, FORETOLD, IDLE_S, tries)
    if json_path is not None:
        written = orjson.dumps(asdict(measured), option=orjson.OPT_INDENT_2)
        await asyncio.to_thread(json_path.write_bytes, written)
    return await asyncio.to_thread(say, measured, plots)
