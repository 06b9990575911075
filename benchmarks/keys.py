"""What keys and limits cost the relay: one load with neither, with keys, and with keys that have limits.

Three orchestrators on one Redis, before one worker, in turns; each round begins with another one. Short streams
show the cost most, which is paid once a request.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median

from benchmarks.relay import Load, measure_one
from benchmarks.relaying.report import Measured
from benchmarks.servers import Server
from relais_common.config import api_keys
from relais_testing.process_stack import MODEL
from relais_testing.processes import ServiceProcess
from relais_testing.valkey import ValkeyServer

NEITHER, KEYS, LIMITS = "neither", "keys", "keys and limits"
MANY = 1000
MAX_COST = 0.05


def _write_keys(folder: Path, **limits: int) -> tuple[Path, str]:
    """A file of many clients, and the key of the last."""
    path = folder / f"keys-{len(limits)}.json"
    made = [api_keys.generate() for _ in range(MANY)]
    entries = {
        f"client{number}": {"hash": api_keys.hash_text(key), **limits}
        for number, key in enumerate(made)
    }
    path.write_text(json.dumps(entries))
    return path, made[-1]


@contextmanager
def _started(load: Load) -> Iterator[dict[str, Server]]:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        (folder / "redis").mkdir()
        redis = stack.enter_context(
            ValkeyServer(
                folder / "redis", appendonly=True, options={"appendfsync": load.appendfsync}
            )
        )

        def start(module: str, port: str, **more: str) -> ServiceProcess:
            log_path = folder / f"{module}-{len(list(folder.iterdir()))}.log"
            settings = {"REDIS_URL": redis.url, "MODELS": MODEL, **more}
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
        plain = _write_keys(folder)
        limited = _write_keys(
            folder,
            requests_per_minute=10_000_000,
            tokens_per_minute=100_000_000,
            concurrent_requests=10_000,
        )
        servers = {}
        for name, settings, key in (
            (NEITHER, {"ENV": "dev"}, ""),
            (KEYS, {"ENV": "prod", "API_KEYS": str(plain[0])}, plain[1]),
            (LIMITS, {"ENV": "prod", "API_KEYS": str(limited[0])}, limited[1]),
        ):
            front = start("relais_orchestrator", "API_PORT", **settings)
            pids = {"server": front.pid, "worker": worker.pid, "redis": redis.pid}
            servers[name] = Server(front.url, pids, key)
        yield servers


async def run(*, clients: int, tokens: int, rounds: int) -> bool:
    """Print a row for each; False where keys and limits cost more than they may."""
    load = Load(clients, tokens, 1, 0.0, "always")
    found: dict[str, list[Measured]] = {NEITHER: [], KEYS: [], LIMITS: []}
    with _started(load) as servers:
        for number in range(rounds):
            names = list(found)
            for name in names[number % 3 :] + names[: number % 3]:
                found[name].append(await measure_one(servers[name], load, f"round {number}"))
    print(
        f"{clients} clients x {tokens} tokens, {rounds} rounds in turns, {MANY} keys,"
        f" {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"
    )
    print("| | of neither | frames/s | CPU per request, ms: server, worker, Redis |")
    print("| --- | --- | --- | --- |")
    for name, rows in found.items():
        rate = median(row.frames_per_s for row in rows)
        spent = [
            median(row.cpu_us[process] for row in rows) * tokens / 1000
            for process in ("server", "worker", "redis")
        ]
        shown = ", ".join(f"{milliseconds:.2f}" for milliseconds in spent)
        print(f"| {name} | {_ratio(found, name):.3f} | {rate:,.0f} | {shown} |")
    met = _ratio(found, LIMITS) > 1 - MAX_COST
    print(f"keys and limits cost under {MAX_COST:.0%} of the frames: {'met' if met else 'MISSED'}")
    return met


def _ratio(found: dict[str, list[Measured]], name: str) -> float:
    """Of frames per second to those with neither: the median over rounds of each round's own."""
    pairs = zip(found[name], found[NEITHER], strict=True)
    return median(one.frames_per_s / other.frames_per_s for one, other in pairs)
