"""What traces cost the relay: one load with none, with traces, and with traces that hold prompt and answer.

Three orchestrators on one Redis, before one worker, in turns; each round begins with another one. Clients ask one
request after another, so that ends come all the time, and their traces are written meanwhile, at the pace that
orchestrators have by themselves. CPU counts until the last trace of the round is written, that of the database
(SecantusDB, its journal synchronised at each commit) beside the rest.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import psutil
from redis.asyncio import Redis

from benchmarks.relay import Load, measure_one
from benchmarks.servers import Server
from relais_common.queue import keys
from relais_testing.mongo import MongoServer
from relais_testing.process_stack import MODEL
from relais_testing.processes import ServiceProcess
from relais_testing.valkey import ValkeyServer
from relais_testing.waiting import wait_until

NONE, TRACES, CONTENT = "none", "traces", "traces with content"
MAX_COST = 0.03
PROCESSES = ("server", "worker", "redis", "database")


@dataclass(slots=True)
class Found:
    """Of one orchestrator: frames a second of each round, and CPU seconds by process and frames of all of them."""

    frames_per_s: list[float] = field(default_factory=list)
    cpu_s: dict[str, float] = field(default_factory=lambda: dict.fromkeys(PROCESSES, 0.0))
    frames: int = 0

    @property
    def cpu_us(self) -> dict[str, float]:
        return {name: spent / self.frames * 1e6 for name, spent in self.cpu_s.items()}


@contextmanager
def _started(load: Load) -> Iterator[tuple[dict[str, Server], str]]:
    """The orchestrators, and Redis's address."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        (folder / "redis").mkdir()
        redis = stack.enter_context(
            ValkeyServer(
                folder / "redis",
                appendonly=True,
                # A rewrite of the file would fall upon one of the three.
                options={"appendfsync": load.appendfsync, "auto-aof-rewrite-percentage": "0"},
            )
        )
        database = stack.enter_context(MongoServer(folder / "mongo", sync=True))

        def start(module: str, port: str, **more: str) -> ServiceProcess:
            log_path = folder / f"{module}-{len(list(folder.iterdir()))}.log"
            settings = {"REDIS_URL": redis.url, "MODELS": MODEL, "ENV": "dev", **more}
            return stack.enter_context(ServiceProcess(module, port, log_path, settings))

        worker = start(
            "relais_llm_worker",
            "HEALTH_PORT",
            ENGINE="deterministic",
            SERVED_MODEL_NAME=MODEL,
            VLLM_MAX_MODEL_LEN="100000",
            VLLM_MAX_NUM_SEQS=str(2 * load.clients),
            DETERMINISTIC_TOKENS_PER_S=str(load.tokens_per_s),
        )
        kept = {"MONGODB_URL": database.url}
        servers = {}
        for name, settings in (
            (NONE, {}),
            (TRACES, kept),
            (CONTENT, {**kept, "TRACE_CONTENT": "full", "MONGODB_DATABASE": "content"}),
        ):
            front = start("relais_orchestrator", "API_PORT", **settings)
            pids = {
                "server": front.pid,
                "worker": worker.pid,
                "redis": redis.pid,
                "database": database.pid,
            }
            servers[name] = Server(front.url, pids)
        yield servers, redis.url


async def _all_written(redis: Redis) -> bool:
    return await redis.xlen(keys.traces(MODEL)) == 0


async def measure(load: Load, rounds: int) -> dict[str, Found]:
    """All three in turns. AssertionError where a client got anything but the right frames."""
    found = {name: Found() for name in (NONE, TRACES, CONTENT)}
    with _started(load) as (servers, redis_url):
        async with Redis.from_url(redis_url) as redis:
            for number in range(rounds):
                names = list(found)
                for name in names[number % 3 :] + names[: number % 3]:
                    server, one = servers[name], found[name]
                    measured = await measure_one(server, load, f"round {number}")
                    before = server.cpu_s()
                    await wait_until(lambda: _all_written(redis))
                    after = server.cpu_s()
                    one.frames += measured.frames
                    one.frames_per_s.append(measured.frames_per_s)
                    for process in PROCESSES:
                        one.cpu_s[process] += measured.cpu_us[process] * measured.frames / 1e6
                        one.cpu_s[process] += after[process] - before[process]
    return found


async def run(
    *, clients: int, tokens: int, requests: int, rounds: int, tokens_per_s: float
) -> bool:
    """Print a row for each; False where traces cost more than they may."""
    load = Load(clients, tokens, 1, tokens_per_s, "always", requests)
    found = await measure(load, rounds)
    print(
        f"{clients} clients x {requests} requests x {tokens} tokens, {rounds} rounds in turns,"
        + (f" {tokens_per_s:g} tokens/s and stream," if tokens_per_s else "")
        + f" {psutil.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"
    )
    print(
        "| | of none | frames/s | CPU per frame, us: server, worker, Redis, database | in all, of none |"
    )
    print("| --- | --- | --- | --- | --- |")
    bare = _ours(found[NONE])
    for name, one in found.items():
        shown = ", ".join(f"{one.cpu_us[process]:.2f}" for process in PROCESSES)
        print(
            f"| {name} | {_ratio(found, name):.3f} | {median(one.frames_per_s):,.0f} | {shown}"
            f" | {_ours(one) / bare:.3f} |"
        )
    met = _ratio(found, TRACES) > 1 - MAX_COST
    print(f"traces cost under {MAX_COST:.0%} of the frames: {'met' if met else 'MISSED'}")
    return met


def _ours(one: Found) -> float:
    """CPU per frame without the database's, which another machine's may be."""
    return sum(spent for process, spent in one.cpu_us.items() if process != "database")


def _ratio(found: dict[str, Found], name: str) -> float:
    """Of frames per second to those without traces: the median over rounds of each round's own."""
    pairs = zip(found[name].frames_per_s, found[NONE].frames_per_s, strict=True)
    return median(one / other for one, other in pairs)
