"""No-op jobs through the queue, from submit to result, beside SAQ, streaQ, taskiq and arq as they come.

Each queue gets one worker process and one client process, on the same Redis, one after the other in each round: some
poll, and would be in the others' way. What is measured of Relais is the queue itself, through its ports: acceptance
with its bounds, order, lease, log, live messages, stored result, counts, trace. There is no engine, so no `start`.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import orjson

from benchmarks.figures import Rounds
from benchmarks.queueing import report
from benchmarks.queueing.report import RELAIS, Measured
from benchmarks.servers import Server
from relais_testing.environments import ROOT, python_of
from relais_testing.valkey import ValkeyServer

HELP = "no-op jobs, beside SAQ, streaQ, taskiq and arq"
PEERS = ("saq", "streaq", "taskiq", "arq")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Of `run`."""
    add = parser.add_argument
    add("--in-flight", type=int, default=32)
    add("--jobs", type=int, default=5000, help="under load, of each queue and round")
    add("--alone", type=int, default=200, help="jobs one at a time")
    add("--rounds", type=int, default=5)
    add("--appendfsync", choices=["always", "everysec", "no"], default="always")
    add("--peers", nargs="+", choices=PEERS, default=list(PEERS))
    add("--hold", action="store_true", help="run Relais only, for a profiler")


@dataclass(frozen=True, slots=True)
class Load:
    """What is asked of each queue.

    Attributes:
        in_flight: jobs submitted at once; a worker runs as many.
        jobs: under load, in all.
        alone: jobs one at a time, before that.
    """

    in_flight: int
    jobs: int
    alone: int


@asynccontextmanager
async def _process(
    name: str, role: str, url: str, load: Load
) -> AsyncIterator[asyncio.subprocess.Process]:
    python = sys.executable if name == RELAIS else str(python_of(f"peers/{name}"))
    arguments = ("-m", "benchmarks.queueing.process", name, role, url, str(load.in_flight))
    process = await asyncio.create_subprocess_exec(
        *(python, *arguments),
        cwd=ROOT,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE if role == "client" else asyncio.subprocess.DEVNULL,
        limit=1 << 26,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def _ask(client: asyncio.subprocess.Process, in_flight: int, jobs: int) -> dict[str, object]:
    assert client.stdin is not None
    assert client.stdout is not None
    client.stdin.write(f"{in_flight} {jobs}\n".encode())
    answer: dict[str, object] = orjson.loads(await client.stdout.readline())
    return answer


async def measure_one(name: str, redis: ValkeyServer, load: Load) -> Measured:
    """One queue, once: its worker and its client are started for it."""
    async with (
        _process(name, "worker", redis.url, load) as worker,
        _process(name, "client", redis.url, load) as client,
    ):
        assert client.stdout is not None
        if await client.stdout.readline() != b"ready\n":
            raise RuntimeError(f"{name} did not answer")
        alone = await _ask(client, 1, load.alone)
        pids = {"client": client.pid, "worker": worker.pid, "redis": redis.pid}
        server = Server(redis.url, pids)
        before = server.cpu_s()
        loaded = await _ask(client, load.in_flight, load.jobs)
        after = server.cpu_s()
    return Measured(
        jobs_per_s=load.jobs / loaded["elapsed_s"],  # type: ignore[operator]
        loaded_s=tuple(loaded["latencies_s"]),  # type: ignore[arg-type]
        alone_s=tuple(alone["latencies_s"]),  # type: ignore[arg-type]
        cpu_us={one: (after[one] - before[one]) / load.jobs * 1e6 for one in before},
    )


async def run(
    *,
    in_flight: int,
    jobs: int,
    alone: int,
    rounds: int,
    appendfsync: str,
    peers: list[str],
    hold: bool,
) -> bool:
    """Measure all in turns, and print the table. False where the bar is missed."""
    load = Load(in_flight, jobs, alone)
    names = [RELAIS] if hold else [RELAIS, *peers]
    for name in names[1:]:
        python_of(f"peers/{name}")
    with tempfile.TemporaryDirectory() as folder:
        options = {"appendfsync": appendfsync}
        with ValkeyServer(Path(folder), appendonly=True, options=options) as redis:
            if hold:
                await _hold(redis, load, rounds)
                return True
            measured = Rounds(
                [
                    {name: await measure_one(name, redis, load) for name in names}
                    for _ in range(rounds)
                ]
            )
    print(
        f"{jobs} jobs, {in_flight} in flight, {rounds} rounds in turns, appendfsync {appendfsync},"
        f" {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"
    )
    print(report.text(measured))
    met = report.ratio(measured, RELAIS, report.best_peer(measured)) > 1
    print(report.BAR + (": met" if met else ": MISSED"))
    return met


async def _hold(redis: ValkeyServer, load: Load, rounds: int) -> None:
    """Relais alone, for a profiler that is told the pids."""
    async with (
        _process(RELAIS, "worker", redis.url, load) as worker,
        _process(RELAIS, "client", redis.url, load) as client,
    ):
        assert client.stdout is not None
        await client.stdout.readline()
        pids = {"client": client.pid, "worker": worker.pid, "redis": redis.pid}
        print(orjson.dumps(pids).decode(), flush=True)
        server = Server(redis.url, pids)
        for _ in range(rounds):
            before = server.cpu_s()
            elapsed_s = (await _ask(client, load.in_flight, load.jobs))["elapsed_s"]
            after = server.cpu_s()
            spent = {one: round((after[one] - before[one]) / load.jobs * 1e6) for one in before}
            print(f"{load.jobs / elapsed_s:,.0f} jobs/s, CPU per job, us: {spent}", flush=True)  # type: ignore[operator]
