"""How cost grows: with the queue, with a log, with workers, with orchestrators; and what memory is used for.

Each step is timed at every size, some rounds of it, in Redis (its own clock, per script) and at the caller. The
exponent of a power law is fitted to each round; 0 is flat, 1 is proportional.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import orjson

from benchmarks.growing import events, filling, fleet, queue
from benchmarks.growing.filling import Pressure
from benchmarks.growing.fit import FLAT, Curve
from benchmarks.growing.fleet import Load
from relais_common.queue.redis_store import RedisSettings, RedisStore, open_store
from relais_testing.valkey import ValkeyServer

PARTS = ("queue", "logs", "fleet", "memory")
WORKERS = (1, 2, 4, 8)
ORCHESTRATORS = (1, 2, 4)
SMALLEST = 10
IDLE_S = 3.0


class Report:
    """Tables as they come, curves for a file, and plots where a folder for them was named."""

    def __init__(self, plots: Path | None) -> None:
        self.curves: dict[str, list[Curve]] = {}
        self.plots = plots

    def table(self, title: str, curves: Sequence[Curve]) -> None:
        """A row for each curve: medians by size, the exponent, and its least and greatest over rounds."""
        self.curves[title] = list(curves)
        sizes = "".join(f"{size:>11,}" for size in curves[0].sizes)
        print(f"\n{title}\n{'':44}{sizes}{'exponent':>12}{'over rounds':>17}")
        for curve in curves:
            middle, least, most = curve.exponents
            figures = "".join(f"{value:11,.1f}" for value in curve.medians)
            verdict = "flat" if curve.is_flat else ""
            print(
                f"{curve.name:40}{curve.unit:>4}{figures}{middle:+12.2f}"
                f"{least:+9.2f}{most:+8.2f} {verdict}",
                flush=True,
            )

    def plot(
        self, name: str, title: str, x: str, panels: Sequence[tuple[str, Sequence[Curve]]]
    ) -> None:
        if self.plots is not None:
            from benchmarks.growing import plots

            plots.grown(self.plots / f"growth-{name}.svg", title, x, panels)


async def run(
    *,
    parts: Sequence[str],
    most: int,
    rounds: int,
    calls: int,
    workers: Sequence[int],
    orchestrators: Sequence[int],
    load: Load,
    pressure: Pressure,
    plots: Path | None,
    json_path: Path | None,
) -> None:
    """Print a table for each part.

    Args:
        most: the greatest queue and log; sizes are powers of ten up to it.
        calls: of each step, at each size, in each round.
    """
    report = Report(plots)
    sizes = [SMALLEST]
    while sizes[-1] * 10 <= most:
        sizes.append(sizes[-1] * 10)
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, {rounds} rounds", flush=True)
    if "queue" in parts:
        await _queue(report, sizes, rounds, calls)
    if "logs" in parts:
        await _logs(report, sizes, rounds, calls)
    if "fleet" in parts:
        await _fleet(report, workers, orchestrators, load, rounds)
    if "memory" in parts:
        await _memory(report, pressure)
    if json_path is not None:
        written = orjson.dumps(report.curves, option=orjson.OPT_INDENT_2)
        await asyncio.to_thread(json_path.write_bytes, written)


@asynccontextmanager
async def _store() -> AsyncIterator[RedisStore]:
    with tempfile.TemporaryDirectory() as folder, ValkeyServer(Path(folder), appendonly=True) as it:
        async with open_store(RedisSettings(it.url)) as store:
            yield store


async def _queue(report: Report, sizes: Sequence[int], rounds: int, calls: int) -> None:
    async with _store() as store:
        in_redis, at_caller, memory = await queue.measure(store, sizes, rounds=rounds, calls=calls)
        sweep = await queue.longest_cancel(store, sizes)
    report.table("Waiting jobs: one call, in Redis", [*in_redis, sweep])
    report.table("Waiting jobs: one call, at the caller", at_caller)
    used, counted = memory
    print(
        f"\nA waiting job of {sizes[-1]:,}: used_memory {used:,.0f} bytes, counted {counted:,.0f}"
    )
    panels = [("in Redis", [*in_redis, sweep]), ("at the caller", at_caller)]
    report.plot("queue", "One call, over the length of the queue", "waiting jobs", panels)


async def _logs(report: Report, sizes: Sequence[int], rounds: int, calls: int) -> None:
    async with _store() as store:
        in_redis, at_caller, memory = await events.measure(store, sizes, rounds=rounds, calls=calls)
    report.table("Logs: one call, in Redis", in_redis)
    report.table("Logs: one call, at the caller", at_caller)
    report.table("Logs: memory of an event", memory)
    panels = [("in Redis", in_redis), ("at the caller", at_caller)]
    report.plot("logs", "One call, over the length of a channel's log", "events in the log", panels)


async def _fleet(
    report: Report,
    workers: Sequence[int],
    orchestrators: Sequence[int],
    load: Load,
    rounds: int,
) -> None:
    middle = sorted(workers)[len(workers) // 2]
    each = replace(load, streams=load.streams // middle)
    fleets = {
        "own": [(one, 1, replace(load, streams=each.streams * one)) for one in workers],
        "shared": [(one, 1, load) for one in workers],
        "orchestrators": [(middle, one, load) for one in orchestrators],
    }
    runs: dict[tuple[int, int, Load], list[fleet.Run]] = {
        key: [] for keys in fleets.values() for key in keys
    }
    for _ in range(rounds):
        for key, found in runs.items():
            found.append(await fleet.measure(*key, idle_s=IDLE_S))
    titles = {
        "own": f"workers, {each.streams} streams for each",
        "shared": f"workers, {load.streams} streams in all",
        "orchestrators": f"orchestrators, {middle} workers, {load.streams} streams in all",
    }
    panels = []
    for name, keys in fleets.items():
        sizes = workers if name != "orchestrators" else orchestrators
        by_size = {size: runs[key] for size, key in zip(sizes, keys, strict=True)}
        curves = fleet.curves(by_size)
        report.table(f"CPU of a token: {titles[name]}", curves)
        panels.append((titles[name], curves))
        for size, found in by_size.items():
            least, most = fleet.shares(found)
            calls = statistics.median(run.calls for run in found)
            print(
                f"  {size}: {calls:.3f} scripts a token, share of the work {least:.2f} to {most:.2f};"
                f" {_idle(found)}"
            )
    report.plot(
        "fleet", f"CPU of a token at {load.tokens_per_s:g} tokens/s a stream", "processes", panels
    )


def _idle(runs: Sequence[fleet.Run]) -> str:
    last = runs[-1]
    spent = ", ".join(f"{part} {share:.1%}" for part, share in last.idle_cpu.items())
    return f"idle, of a core: {spent}"


async def _memory(report: Report, pressure: Pressure) -> None:
    found = await filling.measure(pressure)
    ends = ", ".join(f"{count} {status}" for status, count in sorted(found.ends.items()))
    print(
        f"\nMemory under a bound of {pressure.bound / 1e6:.1f} MB for {pressure.seconds:g} s: prompts of"
        f" {pressure.prompt_tokens:,} tokens, answers of {pressure.answer_tokens:,}\n"
        f"  accepted {found.accepted} ({ends}), refused {found.refused},"
        f" longest Retry-After {found.longest_retry_s} s\n"
        f"  most counted {found.most_counted / 1e6:.1f} MB"
        f" ({found.most_counted / pressure.bound:.0%} of the bound),"
        f" used_memory_peak {found.peak / 1e6:.1f} MB ({found.peak / pressure.bound:.0%})",
        flush=True,
    )
    if report.plots is not None:
        from benchmarks.growing import plots

        plots.filled(
            report.plots / "growth-memory.svg",
            "Redis's memory under clients that never stop asking",
            found,
            pressure.bound,
        )


__all__ = ["FLAT", "PARTS", "run"]
