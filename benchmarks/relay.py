"""How much the relay costs: streamed frames through orchestrator, Redis and worker, beside what one would have instead.

The engine is deterministic and costs nearly nothing, so what is measured is everything around it. Two references run in
the same rounds, over the same clients: an aiohttp server that writes the same chunks with no queue (the limit), and
FastAPI with a Redis list and pub/sub (what a user would write). A frame counts if a client received it as a frame
of its own with exactly one token of the right answer. How many frames came in one read of a socket is told beside it.

For profiles, `--hold SERVER` runs one server's rounds only and prints the pids first.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import orjson

from benchmarks.relaying import report
from benchmarks.relaying.report import LIMIT, REFERENCE, RELAIS, Measured, Row
from benchmarks.servers import Server, prepared
from relais_testing.process_stack import MODEL
from relais_testing.processes import ServiceProcess
from relais_testing.valkey import ValkeyServer

HELP = "streamed frames through the whole stack, no model"
SERVERS = {"bare": LIMIT, "fastapi": REFERENCE, "relais": RELAIS}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Of `run`."""
    add = parser.add_argument
    add("--clients", type=int, default=32)
    add("--tokens", type=int, default=256)
    add("--rounds", type=int, default=5)
    add("--client-processes", type=int, default=1)
    add("--tokens-per-s", type=float, default=0, help="pace of each stream; 0: none")
    add("--appendfsync", choices=["always", "everysec", "no"], default="always")
    add("--json", type=Path, dest="json_path", help="file for the table as JSON")
    add("--hold", choices=list(SERVERS), help="run one server only, for a profiler")


@dataclass(frozen=True, slots=True)
class Load:
    """What the clients ask for, and how it is answered.

    Attributes:
        clients: streams at once.
        tokens: of each stream.
        processes: of clients.
        tokens_per_s: pace of each stream's engine; 0 is as fast as its loop turns.
        appendfsync: of Redis.
    """

    clients: int
    tokens: int
    processes: int
    tokens_per_s: float
    appendfsync: str


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

        def start(module: str, port: str, *, wait: bool = True, **more: str) -> ServiceProcess:
            pace = {"DETERMINISTIC_TOKENS_PER_S": str(load.tokens_per_s)}
            settings = {"REDIS_URL": redis.url, "ENV": "dev", "MODELS": MODEL, **pace, **more}
            process = ServiceProcess(module, port, folder / f"{module}.log", settings)
            if wait:
                return stack.enter_context(process)
            stack.push(process)
            return process

        bare = start("benchmarks.relaying.bare_server", "PORT")
        fastapi = start("benchmarks.relaying.fastapi_server", "PORT")
        # It has no port to be ready on; the clients' first request waits for it.
        pubsub = start("benchmarks.relaying.fastapi_worker", "PORT", wait=False)
        front = start("relais_orchestrator", "API_PORT")
        worker = start(
            "relais_llm_worker",
            "HEALTH_PORT",
            ENGINE="deterministic",
            SERVED_MODEL_NAME=MODEL,
            VLLM_MAX_MODEL_LEN="100000",
            # With fewer, the last ones would wait: a worker takes no more once its engine is nearly full.
            VLLM_MAX_NUM_SEQS=str(2 * load.clients),
        )
        yield {
            LIMIT: Server(bare.url, {"server": bare.pid}),
            REFERENCE: Server(
                fastapi.url, {"server": fastapi.pid, "worker": pubsub.pid, "redis": redis.pid}
            ),
            RELAIS: Server(
                front.url, {"server": front.pid, "worker": worker.pid, "redis": redis.pid}
            ),
        }


async def measure_one(server: Server, load: Load, name: str) -> Measured:
    """All clients at one server, once. AssertionError where one got anything but the right frames."""
    clients = [
        await prepared(
            *("benchmarks.relaying.client", server.url, MODEL),
            str(load.clients // load.processes + (number < load.clients % load.processes)),
            *(str(load.tokens), f"{name}-{number}"),
        )
        for number in range(load.processes)
    ]
    before = server.cpu_s()
    answers = await asyncio.gather(*(client.communicate(b"go\n") for client in clients))
    after = server.cpu_s()
    assert not any(client.returncode for client in clients), "a client got something else"
    told = [orjson.loads(out) for out, _ in answers]
    frames = sum(one["frames"] for one in told)
    elapsed_s = max(one["elapsed_s"] for one in told)
    # A child that came or went meanwhile, as when Redis rewrites its file, is nobody's.
    spent_s = {one: after[one] - before[one] for one in before if one in after}
    spent_s["client"] = sum(one["cpu_s"] for one in told)
    return Measured(
        frames=frames,
        elapsed_s=elapsed_s,
        streams=load.clients,
        reads=sum(one["reads"] for one in told),
        first_s=tuple(second for one in told for second in one["first_s"]),
        gaps_s=tuple(second for one in told for second in one["gaps_s"]),
        cpu_us={process: seconds / frames * 1e6 for process, seconds in spent_s.items()},
        client_busy=max(one["cpu_s"] for one in told) / elapsed_s,
    )


async def measure(load: Load, rounds: int) -> dict[str, Row]:
    """All three servers in turns; a row for each. AssertionError where a client got anything but the right frames."""
    with _started(load) as servers:
        measured = [
            {
                name: await measure_one(server, load, f"round {number}")
                for name, server in servers.items()
            }
            for number in range(rounds)
        ]
    return report.table(measured)


async def run(
    *,
    clients: int,
    tokens: int,
    rounds: int,
    client_processes: int,
    tokens_per_s: float,
    appendfsync: str,
    json_path: Path | None,
    hold: str | None,
) -> bool:
    """Measure all three in turns, and print the table. False where the bar is missed, which a pace has not."""
    load = Load(clients, tokens, client_processes, tokens_per_s, appendfsync)
    if hold is not None:
        await _hold(SERVERS[hold], load, rounds)
        return True
    rows = await measure(load, rounds)
    print(
        f"{clients} clients x {tokens} tokens, {rounds} rounds in turns, appendfsync {appendfsync},"
        + (f" {tokens_per_s:g} tokens/s and stream," if tokens_per_s else "")
        + f" {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"
    )
    print(report.text(rows))
    met = report.bar_met(rows)
    if not tokens_per_s:
        print(report.BAR + (": met" if met else ": MISSED"))
    if json_path is not None:
        found = report.as_json(rows, {**asdict(load), "rounds": rounds})
        written = orjson.dumps(found, option=orjson.OPT_INDENT_2)
        await asyncio.to_thread(json_path.write_bytes, written)
    return met or bool(tokens_per_s)


async def _hold(name: str, load: Load, rounds: int) -> None:
    """One server alone, for a profiler that is told its pids."""
    with _started(load) as servers:
        print(orjson.dumps(servers[name].pids).decode(), flush=True)
        for number in range(rounds):
            one = await measure_one(servers[name], load, f"round {number}")
            spent = {process: round(us, 1) for process, us in one.cpu_us.items()}
            print(f"{one.frames_per_s:,.0f} frames/s, CPU per frame, us: {spent}", flush=True)
