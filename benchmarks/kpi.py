"""What the KPI job costs, and how near its figures are: a database of simulated traces, the job a process of its own.

Bars: the next hundredth of the traces costs at most 3 % of the first run; a report of 24 hours reads less than 1 % as
many documents as there are traces; percentiles are within the stated error of exact ones; the job's memory stays
under 300 MB. Exact percentiles come from the traces themselves, which the same seed gives again.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import os
import subprocess
import sys
import tempfile
import time
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import orjson

from benchmarks.servers import peak_bytes
from relais_common.insights.mongo import Database, MongoSettings, open_database
from relais_common.insights.periods import Period
from relais_common.insights.rollups import HOUR, hour_of
from relais_common.insights.sketch import RELATIVE_ERROR
from relais_common.insights.store import ROLLUPS, TRACES
from relais_common.jobs.job import Status
from relais_common.jobs.traces import Trace
from relais_kpi.simulation.insert import insert_simulated
from relais_kpi.simulation.traffic import simulate
from relais_testing.mongo import MongoServer

HELP = "what rolling traces up costs, and how exact reports are"
DATABASE = "kpi-benchmark"
SEED, NEXT_SEED = 1, 2
NEXT_HOURS = 7
MAX_NEXT_COST = 0.03
MAX_READ = 0.01
MAX_MEMORY_BYTES = 300e6
METRICS = ("ttft", "tpot", "e2e", "queue")
SHARES = (("p50_s", 0.5), ("p90_s", 0.9), ("p99_s", 0.99))
NOTE = "filled.json"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Of `run`."""
    add = parser.add_argument
    add("--traces", type=int, default=1_000_000)
    add("--days", type=int, default=30)
    add("--folder", type=Path, help="where they are written")
    later = "measure at the next call, with the same folder"
    add("--fill-only", action="store_true", help=later)
    add("--json", type=Path, dest="json_path", help="file for the bars as JSON")


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one process: wall clock, its own CPU, its largest memory."""

    wall_s: float
    cpu_s: float
    memory_bytes: float
    out: bytes

    def __str__(self) -> str:
        return f"{self.wall_s:8.2f} s {self.cpu_s:8.2f} s CPU {self.memory_bytes / 1e6:7.0f} MB"


@dataclass(frozen=True, slots=True)
class Bar:
    """What was wanted, and what was found."""

    name: str
    found: float
    most: float

    @property
    def is_kept(self) -> bool:
        return self.found <= self.most


async def run(
    traces: int, days: int, folder: Path | None, fill_only: bool, json_path: Path | None = None
) -> bool:
    """Print the figures; false where a bar is missed."""
    with _folder(folder) as where, MongoServer(where) as server:
        settings = MongoSettings(url=server.url, database=DATABASE, answer_timeout_s=600)
        async with open_database(settings) as database:
            until = await _fill(database, where / NOTE, traces, days)
            if fill_only:
                _write_note(where / NOTE, {"until": until})
                # A kill, which is what follows, would lose what is not on the disk yet.
                await asyncio.to_thread(server.restart, kill=False)
                return True
            return await _measure(database, server.url, traces, days, until, json_path)


@contextmanager
def _folder(folder: Path | None) -> Iterator[Path]:
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        yield folder
        return
    with tempfile.TemporaryDirectory() as made:
        yield Path(made)


async def _fill(database: Database, note: Path, traces: int, days: int) -> datetime:
    """All but the next traces; what an earlier call left is taken as it is. Gives the end of the last hour."""
    if (kept := _read_note(note)) is not None:
        return kept
    # As the orchestrators make them, before the first trace.
    await database[TRACES].create_index([("recorded_at", 1), ("finished_at", 1)])
    await database[TRACES].create_index([("finished_at", 1)])
    until = hour_of(datetime.now(UTC))
    began = time.monotonic()
    written = await insert_simulated(database, _first(traces, days, until), seed=SEED)
    print(f"{written:,} traces written in {time.monotonic() - began:.0f} s", flush=True)
    return until


def _read_note(note: Path) -> datetime | None:
    """Left by a call that only filled; taken away, for more is added now: to measure again, fill again."""
    if not note.exists():
        return None
    until = datetime.fromisoformat(orjson.loads(note.read_bytes())["until"])
    note.unlink()
    return until


def _write_note(note: Path, said: dict[str, Any]) -> None:
    note.write_bytes(orjson.dumps(said))


def _first(traces: int, days: int, until: datetime) -> Iterator[Trace]:
    return simulate(traces=traces, days=days, seed=SEED, until=until - NEXT_HOURS * HOUR)


def _next(traces: int, until: datetime) -> Iterator[Trace]:
    return simulate(traces=traces // 100, days=NEXT_HOURS / 24, seed=NEXT_SEED, until=until)


async def _measure(
    database: Database,
    url: str,
    traces: int,
    days: int,
    until: datetime,
    json_path: Path | None,
) -> bool:
    print(f"load average {os.getloadavg()[0]:.1f}, {os.cpu_count()} cores")

    first = await _job(url, "rollup")
    _say(f"rollup of {traces:,} traces", first)
    await insert_simulated(database, _next(traces, until), seed=NEXT_SEED)
    then = await _job(url, "rollup")
    _say(f"rollup of the next {traces // 100:,}", then)
    idle = await _job(url, "rollup")
    _say("rollup of nothing new", idle)

    day = Period(until - timedelta(days=1), until)
    month = Period(until - timedelta(days=days), until)
    day_report = await _report(url, day)
    _say("report of 24 hours", day_report)
    month_report = await _report(url, month)
    _say(f"report of {days} days", month_report)
    read = await database[ROLLUPS].count_documents(_hours(day))
    read += await database[ROLLUPS].count_documents(_hours(day.previous))
    print(f"documents read for 24 hours and the 24 before: {read:,}")

    error = max(
        _worst(day_report, _durations(traces, days, until, day), "24 hours"),
        _worst(month_report, _durations(traces, days, until, month), f"{days} days"),
    )
    bars = [
        Bar(
            "next hundredth, share of the first run's time",
            then.wall_s / first.wall_s,
            MAX_NEXT_COST,
        ),
        Bar("documents read for 24 hours, share of traces", read / traces, MAX_READ),
        Bar("largest error of a percentile", error, RELATIVE_ERROR),
        Bar(
            "memory of the job, MB",
            max(first.memory_bytes, then.memory_bytes) / 1e6,
            MAX_MEMORY_BYTES / 1e6,
        ),
    ]
    for bar in bars:
        verdict = "kept" if bar.is_kept else "MISSED"
        print(f"{bar.name:48} {bar.found:10.4g}  at most {bar.most:g}: {verdict}")
    if json_path is not None:
        _write_note(json_path, {bar.name: bar.found for bar in bars})
    return all(bar.is_kept for bar in bars)


def _say(what: str, cost: Cost) -> None:
    print(f"{what:36} {cost}", flush=True)


def _hours(period: Period) -> dict[str, Any]:
    return {"hour": {"$gte": period.since, "$lt": period.until}}


async def _report(url: str, period: Period) -> Cost:
    edges = (
        "--since",
        f"{period.since:%Y-%m-%dT%H:%M}",
        "--until",
        f"{period.until:%Y-%m-%dT%H:%M}",
    )
    return await _job(url, "report", *edges, "--format", "json")


async def _job(url: str, *arguments: str) -> Cost:
    """The command in a process of its own."""
    environ = os.environ | {"MONGODB_URL": url, "MONGODB_DATABASE": DATABASE}
    return await asyncio.to_thread(_run, [sys.executable, "-m", "relais_kpi", *arguments], environ)


def _run(command: list[str], environ: dict[str, str]) -> Cost:
    began = time.monotonic()
    with tempfile.TemporaryFile() as out:
        process = subprocess.Popen(command, env=environ, stdout=out)
        most = _watch(process.pid)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        wall_s = time.monotonic() - began
        if process.returncode:
            raise RuntimeError("the job failed; its own words are above")
        out.seek(0)
        return Cost(wall_s, usage.ru_utime + usage.ru_stime, most, out.read())


def _watch(pid: int) -> int:
    """The largest memory of a process until its end. Not what `wait4` tells: that counts whoever started it, too."""
    most = 0
    while os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        most = max(most, peak_bytes(pid))
        time.sleep(0.01)
    return most


def _durations(traces: int, days: int, until: datetime, period: Period) -> dict[str, array[float]]:
    """What the requests that ended in the period took, one by one."""
    found = {name: array("d") for name in METRICS}
    since_s, until_s = period.since.timestamp(), period.until.timestamp()
    for source in (_first(traces, days, until), _next(traces, until)):
        for trace in source:
            # As it is in the document: to the millisecond.
            if not since_s <= round(trace.finished_at_s, 3) < until_s:
                continue
            found["queue"].append(trace.phases.queue_s)
            if trace.status is not Status.COMPLETED:
                continue
            found["e2e"].append(trace.e2e_s)
            if trace.ttft_s is not None:
                found["ttft"].append(trace.ttft_s)
            if trace.tpot_s is not None:
                found["tpot"].append(trace.tpot_s)
    return found


def _worst(report: Cost, durations: dict[str, array[float]], period: str) -> float:
    """The largest relative error of the report's percentiles. Counts must be exact."""
    total = orjson.loads(report.out)["total"]
    worst = 0.0
    for name, values in durations.items():
        in_order = sorted(values)
        assert total[name]["count"] == len(in_order), f"{name} of {period}: requests are missing"
        for quantile, share in SHARES:
            exact = in_order[max(1, math.ceil(share * len(in_order))) - 1]
            worst = max(worst, abs(total[name][quantile] / exact - 1))
    print(
        f"percentiles of {period}: largest error {worst:.2%}, of {len(durations['queue']):,} requests"
    )
    return worst
