"""What a token costs with more workers and more orchestrators under the same load, and who got the work.

Real processes, deterministic engine, each stream at a set pace: two cores give no more tokens to more processes, so the
question is what they cost, not how many they give.
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import psutil
from redis.asyncio import Redis

from benchmarks.growing.fit import Curve
from benchmarks.relay import start_client
from benchmarks.servers import Server
from relais_testing.process_stack import DETERMINISTIC, MODEL
from relais_testing.processes import ServiceProcess
from relais_testing.valkey import ValkeyServer

PARTS = ("orchestrators", "workers", "Redis")


@dataclass(frozen=True, slots=True)
class Load:
    """Streams at once, tokens of each, and their pace."""

    streams: int
    tokens: int
    tokens_per_s: float


@dataclass(frozen=True, slots=True)
class Run:
    """One fleet in one round.

    Attributes:
        cpu_us: of a token, by part.
        idle_cpu: share of a core that the part takes with nothing to do.
        calls: of Redis's scripts, per token.
        jobs: taken by each worker.
        elapsed_s: from the first request to the last token.
    """

    cpu_us: dict[str, float]
    calls: float
    idle_cpu: dict[str, float]
    jobs: tuple[int, ...]
    elapsed_s: float


async def measure(workers: int, orchestrators: int, load: Load, *, idle_s: float) -> Run:
    """AssertionError where a client got anything but the right tokens."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        (folder / "redis").mkdir()
        redis = stack.enter_context(ValkeyServer(folder / "redis", appendonly=True))

        def start(module: str, port: str, name: str, **more: str) -> ServiceProcess:
            settings = {"REDIS_URL": redis.url, "ENV": "dev", "MODELS": MODEL, **more}
            process = ServiceProcess(module, port, folder / f"{name}.log", settings)
            stack.push(process)
            return process

        fronts = [
            start("relais_orchestrator", "API_PORT", f"orchestrator-{number}")
            for number in range(orchestrators)
        ]
        fleet = [
            start(
                "relais_llm_worker",
                "HEALTH_PORT",
                f"worker-{number}",
                **DETERMINISTIC,
                DETERMINISTIC_TOKENS_PER_S=str(load.tokens_per_s),
                # Each has room for all, so that who gets what is left to the queue.
                VLLM_MAX_NUM_SEQS=str(load.streams),
                WORKER_ID=f"worker-{number}",
            )
            for number in range(workers)
        ]
        for process in (*fronts, *fleet):
            await asyncio.to_thread(process.wait_ready)
        pids = {
            "orchestrators": [one.pid for one in fronts],
            "workers": [one.pid for one in fleet],
            "Redis": [redis.pid],
        }
        before = _cpu_s(pids)
        await asyncio.sleep(idle_s)
        idle = _spent(before, _cpu_s(pids))
        clients = [
            await start_client(
                Server(front.url, {}),
                f"fleet-{number}",
                load.streams // orchestrators + (number < load.streams % orchestrators),
                load.tokens,
            )
            for number, front in enumerate(fronts)
        ]
        warm = await _jobs(redis.url, workers)
        calls = await _calls(redis.url)
        before = _cpu_s(pids)
        answers = await asyncio.gather(*(client.communicate(b"go\n") for client in clients))
        spent = _spent(before, _cpu_s(pids))
        assert not any(client.returncode for client in clients), "a client got something else"
        told = [orjson.loads(out) for out, _ in answers]
        tokens = sum(one["frames"] for one in told)
        calls = await _calls(redis.url) - calls
        jobs = await _jobs(redis.url, workers)
    return Run(
        cpu_us={part: seconds / tokens * 1e6 for part, seconds in spent.items()},
        calls=calls / tokens,
        idle_cpu={part: seconds / idle_s for part, seconds in idle.items()},
        jobs=tuple(now - was for now, was in zip(jobs, warm, strict=True)),
        elapsed_s=max(one["elapsed_s"] for one in told),
    )


def curves(runs: dict[int, list[Run]]) -> list[Curve]:
    """CPU of a token by part, and of all, over the fleet's size."""
    sizes = tuple(runs)
    rounds = len(next(iter(runs.values())))

    def rows(parts: tuple[str, ...]) -> tuple[tuple[float, ...], ...]:
        return tuple(
            tuple(sum(runs[size][number].cpu_us[part] for part in parts) for size in sizes)
            for number in range(rounds)
        )

    each = [Curve(part, "µs", sizes, rows((part,))) for part in PARTS]
    return [*each, Curve("all", "µs", sizes, rows(PARTS))]


def shares(runs: list[Run]) -> tuple[float, float]:
    """The least and the most work of a worker, over an even share; medians over rounds."""
    each = [(min(run.jobs), max(run.jobs), statistics.fmean(run.jobs)) for run in runs]
    return (
        statistics.median(least / mean for least, _, mean in each),
        statistics.median(most / mean for _, most, mean in each),
    )


async def _calls(url: str) -> int:
    async with Redis.from_url(url) as redis:
        calls: int = (await redis.info("commandstats"))["cmdstat_evalsha"]["calls"]
        return calls


async def _jobs(url: str, workers: int) -> list[int]:
    async with Redis.from_url(url) as client:
        redis: Any = client
        names = [name async for name in redis.scan_iter("relais:*:job:*", count=1000)]
        took = Counter([(await redis.hget(name, "worker") or b"").decode() for name in names])
    return [took[f"worker-{number}"] for number in range(workers)]


def _cpu_s(pids: dict[str, list[int]]) -> dict[str, float]:
    return {
        part: sum(sum(psutil.Process(pid).cpu_times()[:2]) for pid in each)
        for part, each in pids.items()
    }


def _spent(before: dict[str, float], after: dict[str, float]) -> dict[str, float]:
    return {part: after[part] - before[part] for part in before}
