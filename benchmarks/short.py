"""Short requests from HTTP to HTTP: whole chats of a few tokens, and vectors of one text, many clients at once.

Engine and encoder are deterministic and cost nearly nothing, so what is measured is what a request costs around them.
The reference, FastAPI with Redis lists (what a user would write), runs in the same rounds, for the same clients.

For profiles, `--hold SERVER` runs one server's rounds only and prints the pids first.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import orjson

from benchmarks.answering import report
from benchmarks.answering.report import REFERENCE, RELAIS, Measured
from benchmarks.servers import Server, prepared
from relais_testing.process_stack import DETERMINISTIC, MODEL
from relais_testing.processes import ServiceProcess
from relais_testing.valkey import ValkeyServer

HELP = "short requests through the whole stack, no model"
EMBEDDING_MODEL = "relais-embeddings"
SERVERS = {"fastapi": REFERENCE, "relais": RELAIS}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Of `run`."""
    add = parser.add_argument
    add("--clients", type=int, default=64)
    add("--requests", type=int, default=40, help="of each client and round, one after another")
    add("--tokens", type=int, nargs="*", default=[1, 8, 0], help="of each chat; 0: a text's vector")
    add("--rounds", type=int, default=5)
    add("--appendfsync", choices=["always", "everysec", "no"], default="always")
    add("--hold", choices=list(SERVERS), help="run one server only, for a profiler")


@dataclass(frozen=True, slots=True)
class Load:
    """What the clients ask for.

    Attributes:
        clients: at once.
        requests: of each, one after another.
        tokens: of each chat; 0 for the vector of a text.
    """

    clients: int
    requests: int
    tokens: int

    def __str__(self) -> str:
        what = f"chats of {self.tokens} tokens" if self.tokens else "vectors of one text"
        return f"{self.clients} clients x {self.requests} {what}"


@contextmanager
def _started(names: Sequence[str], clients: int, appendfsync: str) -> Iterator[dict[str, Server]]:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        (folder / "redis").mkdir()
        options = {"appendfsync": appendfsync}
        redis = stack.enter_context(
            ValkeyServer(folder / "redis", appendonly=True, options=options)
        )
        both = {"REDIS_URL": redis.url, "ENV": "dev"}
        models = {"MODELS": MODEL, "EMBEDDING_MODELS": EMBEDDING_MODEL}

        def process(module: str, port: str, **more: str) -> ServiceProcess:
            path = folder / f"{module.rpartition('.')[2]}.log"
            return ServiceProcess(module, port, path, {**both, **models, **more})

        servers: dict[str, Server] = {}
        if REFERENCE in names:
            server = stack.enter_context(process("benchmarks.answering.fastapi_server", "PORT"))
            # It has no port to be ready on; the clients' first request waits for it.
            popping = process("benchmarks.answering.fastapi_worker", "PORT")
            stack.push(popping)
            pids = {"server": server.pid, "worker": popping.pid, "redis": redis.pid}
            servers[REFERENCE] = Server(server.url, pids)
        if RELAIS in names:
            front = stack.enter_context(process("relais_orchestrator", "API_PORT"))
            # With fewer, the last ones would wait: a worker takes no more once its engine is nearly full.
            places = {"VLLM_MAX_NUM_SEQS": str(2 * clients), **DETERMINISTIC}
            worker = stack.enter_context(process("relais_llm_worker", "HEALTH_PORT", **places))
            encoder = {
                "EMBEDDING_ENGINE": "deterministic",
                "EMBEDDING_SERVED_NAME": EMBEDDING_MODEL,
            }
            embedder = stack.enter_context(
                process("relais_embedding_worker", "HEALTH_PORT", **encoder)
            )
            pids = {
                "server": front.pid,
                "worker": worker.pid,
                "encoder": embedder.pid,
                "redis": redis.pid,
            }
            servers[RELAIS] = Server(front.url, pids)
        yield servers


async def measure_one(server: Server, load: Load, name: str) -> Measured:
    """All clients at one server, once. AssertionError where one got anything but the right answers."""
    kind, model = ("chat", MODEL) if load.tokens else ("embeddings", EMBEDDING_MODEL)
    client = await prepared(
        *("benchmarks.answering.client", server.url, kind, model, str(load.clients)),
        *(str(load.requests), str(load.tokens), name),
    )
    before = server.cpu_s()
    out, _ = await client.communicate(b"go\n")
    after = server.cpu_s()
    assert client.returncode == 0, "a client got something else"
    told = orjson.loads(out)
    requests = load.clients * load.requests
    # A child that came or went meanwhile, as when Redis rewrites its file, is nobody's.
    spent_s = {one: after[one] - before[one] for one in before if one in after}
    spent_s["client"] = told["cpu_s"]
    return Measured(
        requests=requests,
        elapsed_s=told["elapsed_s"],
        latencies_s=tuple(told["latencies_s"]),
        cpu_us={process: seconds / requests * 1e6 for process, seconds in spent_s.items()},
        client_busy=told["cpu_s"] / told["elapsed_s"],
    )


async def measure(
    loads: Sequence[Load], rounds: int, *, names: Sequence[str], appendfsync: str
) -> list[list[dict[str, Measured]]]:
    """The servers in turns under each load; what was measured of each load, round by round."""
    measured: list[list[dict[str, Measured]]] = [[] for _ in loads]
    with _started(names, loads[0].clients, appendfsync) as servers:
        if len(names) == 1:
            print(orjson.dumps(servers[names[0]].pids).decode(), flush=True)
        for number in range(rounds):
            for load, found in zip(loads, measured, strict=True):
                found.append(
                    {
                        name: await measure_one(server, load, f"round {number}")
                        for name, server in servers.items()
                    }
                )
    return measured


async def run(
    *,
    clients: int,
    requests: int,
    tokens: list[int],
    rounds: int,
    appendfsync: str,
    hold: str | None,
) -> bool:
    """Measure both in turns, and print a table for each kind of request."""
    loads = [Load(clients, requests, one) for one in tokens]
    names = [SERVERS[hold]] if hold is not None else [REFERENCE, RELAIS]
    tables = await measure(loads, rounds, names=names, appendfsync=appendfsync)
    print(
        f"{rounds} rounds in turns, appendfsync {appendfsync},"
        f" {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"
    )
    for load, measured in zip(loads, tables, strict=True):
        print(f"\n{load}")
        if hold is None:
            print(report.text(measured))
        else:
            for one in measured:
                spent = {name: round(us) for name, us in one[names[0]].cpu_us.items()}
                print(f"{one[names[0]].requests_per_s:,.0f} requests/s, CPU, us: {spent}")
    return True
