"""Real fleets under load: orchestrators, workers with the deterministic engine, Redis, and a database of traces."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import orjson
import psutil
from redis.asyncio import Redis

from benchmarks.planning.loads import (
    CLIENTS,
    MONGODB,
    ORCHESTRATORS,
    REDIS,
    WORKERS,
    Counts,
    Fleet,
    Load,
    Run,
)
from benchmarks.servers import prepared
from relais_common.queue import keys
from relais_testing.mongo import MongoServer
from relais_testing.process_stack import DETERMINISTIC, MODEL
from relais_testing.processes import ServiceProcess
from relais_testing.scrape import scrape
from relais_testing.valkey import ValkeyServer
from relais_testing.waiting import wait_until

PLACES = 2000
"""Of each worker: none is ever full, so who gets what is left to the queue."""

QUIET = 2
"""Live messages of each request that no `append` and no end sent: that it is queued, and that it is taken."""


@dataclass(frozen=True, slots=True)
class Started:
    """A fleet that runs: where to ask, and the processes of each part."""

    fleet: Fleet
    fronts: Sequence[ServiceProcess]
    workers: Sequence[ServiceProcess]
    redis_url: str
    pids: Mapping[str, Sequence[int]]

    def cpu_s(self) -> dict[str, float]:
        """User and system time of each part so far."""
        return {part: sum(map(_cpu_s, pids)) for part, pids in self.pids.items()}

    def turns(self) -> dict[str, float]:
        """How often the threads that do each part's work have waited for some."""
        return {
            part: sum(psutil.Process(pid).num_ctx_switches().voluntary for pid in pids)
            for part, pids in self.pids.items()
        }


def _cpu_s(pid: int) -> float:
    """Read the clock of a process's CPU time, to the nanosecond (clock_getcpuclockid(3)); psutil counts hundredths."""
    return time.clock_gettime((~pid << 3) | 2)


@asynccontextmanager
async def started(fleet: Fleet, tokens_per_s: float) -> AsyncIterator[Started]:
    """Start a fleet, which ends with the context.

    Args:
        tokens_per_s: pace of each stream; 0: none.
    """
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        (folder / "redis").mkdir()
        redis = stack.enter_context(ValkeyServer(folder / "redis", appendonly=True))
        common = {"REDIS_URL": redis.url, "ENV": "dev", "MODELS": MODEL, "LOG_LEVEL": "warning"}
        pids = {REDIS: [redis.pid]}
        traces = {}
        if fleet.traces:
            (folder / "mongo").mkdir()
            mongo = stack.enter_context(MongoServer(folder / "mongo", sync=True))
            traces["MONGODB_URL"] = mongo.url
            pids[MONGODB] = [mongo.pid]

        def start(module: str, port: str, name: str, more: Mapping[str, str]) -> ServiceProcess:
            process = ServiceProcess(module, port, folder / f"{name}.log", {**common, **more})
            stack.push(process)
            return process

        engine = {
            **DETERMINISTIC,
            "DETERMINISTIC_TOKENS_PER_S": str(tokens_per_s),
            "VLLM_MAX_NUM_SEQS": str(PLACES),
        }
        fronts = [
            start("relais_orchestrator", "API_PORT", f"orchestrator-{number}", traces)
            for number in range(fleet.orchestrators)
        ]
        workers = [
            start("relais_llm_worker", "HEALTH_PORT", f"worker-{number}", engine)
            for number in range(fleet.workers)
        ]
        for process in (*fronts, *workers):
            await asyncio.to_thread(process.wait_ready)
        pids[ORCHESTRATORS] = [one.pid for one in fronts]
        pids[WORKERS] = [one.pid for one in workers]
        yield Started(fleet, fronts, workers, redis.url, pids)


async def measure(on: Started, load: Load, name: str) -> Run:
    """Put a load on a fleet once. AssertionError where a client got anything but its tokens."""
    clients = [
        await prepared(
            *("benchmarks.planning.client", front.url, MODEL, str(share)),
            *(str(load.requests), str(load.tokens), str(load.prompt), f"{name}-{number}"),
        )
        for number, front in enumerate(on.fronts)
        if (share := _share(load.streams, len(on.fronts), number))
    ]
    if on.fleet.traces:
        await _written(on)
    before, spent, machine_s = await _counted(on), on.cpu_s(), _machine_s()
    waited = on.turns()
    answers = await asyncio.gather(*(client.communicate(b"go\n") for client in clients))
    if on.fleet.traces:
        await _written(on)
    turns = {part: now - waited[part] for part, now in on.turns().items()}
    after, spent_s, machine_s = await _counted(on), on.cpu_s(), _machine_s() - machine_s
    assert not any(client.returncode for client in clients), "a client got something else"
    told = [orjson.loads(out) for out, _ in answers]
    cpu_s = {part: spent_s[part] - spent[part] for part in spent_s}
    cpu_s[CLIENTS] = sum(one["cpu_s"] for one in told)
    turns[REDIS] = after["turns"] - before["turns"]
    turns[CLIENTS] = sum(one["turns"] for one in told)
    elapsed_s = max(one["elapsed_s"] for one in told)
    counts = Counts(
        requests=load.streams * load.requests,
        tokens=sum(one["tokens"] for one in told),
        calls=after["calls"] - before["calls"],
        call_s=after["call_s"] - before["call_s"],
        entries=after["entries"] - before["entries"] - QUIET * load.streams * load.requests,
        stream_s=sum(one["open_s"] for one in told),
        elapsed_s=elapsed_s,
    )
    others = max(0.0, machine_s - sum(cpu_s.values())) / elapsed_s
    return Run(on.fleet, load, counts, cpu_s, turns, others)


async def idle(on: Started, seconds: float) -> Run:
    """Watch a fleet that has nothing to do."""
    spent, machine_s = on.cpu_s(), _machine_s()
    await asyncio.sleep(seconds)
    cpu_s = {part: now - spent[part] for part, now in on.cpu_s().items()}
    others = max(0.0, _machine_s() - machine_s - sum(cpu_s.values())) / seconds
    counts = Counts(
        requests=0, tokens=0, calls=0, call_s=0, entries=0, stream_s=0, elapsed_s=seconds
    )
    return Run(on.fleet, Load(0, 0, 0), counts, cpu_s, {}, others)


def _share(streams: int, processes: int, number: int) -> int:
    return streams // processes + (number < streams % processes)


def _machine_s() -> float:
    times = psutil.cpu_times()
    return float(times.user + times.nice + times.system + times.irq + times.softirq)


async def _counted(on: Started) -> dict[str, float]:
    """What Redis and the workers have counted so far."""
    async with Redis.from_url(on.redis_url) as redis:
        commands, stats = await redis.info("commandstats"), await redis.info("stats")
    async with aiohttp.ClientSession() as session:
        pages = [await scrape(session, one.url) for one in on.workers]
    name = "relais_redis_step_duration_seconds"
    return {
        "turns": stats["eventloop_cycles"],
        "entries": commands.get("cmdstat_publish", {"calls": 0})["calls"],
        "calls": sum(page.of(f"{name}_count", step="append") for page in pages),
        "call_s": sum(page.of(f"{name}_sum", step="append") for page in pages),
    }


async def _written(on: Started) -> None:
    """Wait until no trace waits in Redis."""
    async with Redis.from_url(on.redis_url) as redis:

        async def is_empty() -> bool:
            return not await redis.xlen(keys.traces(MODEL))

        await wait_until(is_empty)
