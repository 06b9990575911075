"""Relais beside `vllm serve`: the same vLLM, model, engine settings and prompts behind each.

They take turns: `vllm serve` with the environment that Relais's worker has, which is the peer; on demand `vllm serve`
with as many processes as it likes; and orchestrator, Redis and worker. CPU time is that of all of a server's
processes. The client is ours, or `vllm bench serve`.
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

from benchmarks.servers import Server, end_with, prepared, start_relais
from benchmarks.serving import report, vllm_bench
from benchmarks.serving.engine import engine_environment, serve_arguments
from benchmarks.serving.report import PEER, PEER_AS_IT_COMES, RELAIS, Measured, Round, Row
from relais_testing.processes import ServiceProcess

HELP = "beside `vllm serve`, over the same model and prompts"
CLIENTS = ("ours", "vllm")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Of `run`."""
    add = parser.add_argument
    add("--clients", type=int, nargs="+", default=[1, 16, 64])
    add("--tokens", type=int, default=128)
    add(
        "--tools",
        action="store_true",
        help="calls that are demanded, with a schema; for our client",
    )
    add("--rounds", type=int, default=5)
    add("--client", choices=CLIENTS, default="ours", help="vllm: `vllm bench serve`")
    add("--defaults-too", action="store_true", help="a third server: `vllm serve` as it comes")
    add("--hold", action="store_true", help="run Relais only, for a profiler")


@dataclass(frozen=True, slots=True)
class Load:
    """What is asked for at one number of clients.

    Attributes:
        clients: at once.
        requests: of each, one after another.
        tokens: of each answer; 0 for calls of a tool, which end by themselves.
        client: ours, or vLLM's.
    """

    clients: int
    requests: int
    tokens: int
    client: str


def loads(clients: Sequence[int], *, tokens: int, client: str) -> list[Load]:
    """More requests each where there are few clients, so that there is a median to speak of."""
    return [Load(one, max(3, 16 // one), tokens, client) for one in clients]


@contextmanager
def _started(names: Sequence[str], wanted: Sequence[Load]) -> Iterator[dict[str, Server]]:
    engine = engine_environment(tools=any(load.tokens == 0 for load in wanted))
    arguments = serve_arguments(engine)
    # What else the environment says suits this machine.
    as_it_comes = {**engine, "VLLM_ENABLE_V1_MULTIPROCESSING": "1"}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        servers: dict[str, Server] = {}
        for name, environment in ((PEER, engine), (PEER_AS_IT_COMES, as_it_comes)):
            if name in names:
                log_path = folder / f"vllm-{len(servers)}.log"
                peer = ServiceProcess(
                    "relais_testing.vllm_command",
                    "PORT",
                    log_path,
                    environment,
                    arguments=["serve", *arguments],
                    ready_path="/health",
                )
                end_with(stack, peer)
                peer.wait_ready()
                servers[name] = Server(peer.url, {"server": peer.pid})
        if RELAIS in names:
            models = {"MODELS": engine["SERVED_MODEL_NAME"]}
            servers[RELAIS] = start_relais(stack, folder, "relais_llm_worker", models, engine)
        yield servers


async def _measure(server: Server, load: Load, number: int) -> Measured:
    if load.client == "vllm":
        return await vllm_bench.measure(
            server.url,
            engine_environment(),
            clients=load.clients,
            requests=load.requests,
            tokens=load.tokens,
            seed=number,
        )
    process = await prepared(
        *("benchmarks.serving.client", server.url, engine_environment()["SERVED_MODEL_NAME"]),
        *(str(load.clients), str(load.requests), str(load.tokens), f"Bonjour {number}"),
    )
    before = server.cpu_s()
    out, _ = await process.communicate(b"go\n")
    after = server.cpu_s()
    assert process.returncode == 0, "the client got something else"
    told = orjson.loads(out)
    streams = told["streams"]
    tokens = sum(one["tokens"] for one in streams)
    return Measured(
        tokens=tokens,
        elapsed_s=told["elapsed_s"],
        first_s=tuple(one["first_s"] for one in streams),
        gaps_s=tuple(gap for one in streams for gap in one["gaps_s"]),
        per_token_s=tuple(one["per_token_s"] for one in streams),
        cpu_us={name: (after[name] - before[name]) / tokens * 1e6 for name in before},
        client_busy=told["cpu_s"] / told["elapsed_s"],
        texts={one["prompt"]: one["text"] for one in streams},
    )


async def measure(
    wanted: Sequence[Load], rounds: int, names: Sequence[str]
) -> dict[int, dict[str, Row]]:
    """The servers in turns under each load; their rows by number of clients.

    Raises:
        AssertionError, RuntimeError: a client got anything but whole answers.
    """
    measured: dict[int, list[Round]] = {load.clients: [] for load in wanted}
    with _started(names, wanted) as servers:
        for number in range(rounds):
            for load in wanted:
                one = {
                    name: await _measure(server, load, number) for name, server in servers.items()
                }
                measured[load.clients].append(one)
                print(report.line(number, load.clients, one), flush=True)
    return {clients: report.table(found) for clients, found in measured.items()}


async def run(
    *,
    clients: list[int],
    tokens: int,
    tools: bool,
    rounds: int,
    client: str,
    defaults_too: bool,
    hold: bool,
) -> bool:
    """Measure, print a table for each number of clients, and the bars. False where one is missed."""
    if tools and client != "ours":
        raise SystemExit("--tools needs our client")
    wanted = loads(clients, tokens=0 if tools else tokens, client=client)
    if hold:
        await _hold(wanted, rounds)
        return True
    names = [PEER, PEER_AS_IT_COMES, RELAIS] if defaults_too else [PEER, RELAIS]
    tables = await measure(wanted, rounds, names)
    cores, busy = os.cpu_count(), os.getloadavg()[0]
    print(f"\n{rounds} rounds in turns, client: {client}, {cores} cores, load {busy:.1f}")
    for load in wanted:
        length = f"{tokens} tokens" if load.tokens else "one call"
        print(f"\n{load.clients} clients x {load.requests} requests x {length}")
        print(report.text(tables[load.clients]))
    bars = report.bars(tables)
    print()
    for bar in bars:
        print(bar)
    return all(bar.met for bar in bars)


async def _hold(wanted: Sequence[Load], rounds: int) -> None:
    """Relais alone, for a profiler that is told its pids."""
    with _started([RELAIS], wanted) as servers:
        print(orjson.dumps(servers[RELAIS].pids).decode(), flush=True)
        for number in range(rounds):
            for load in wanted:
                one = await _measure(servers[RELAIS], load, number)
                spent = {process: round(us) for process, us in one.cpu_us.items()}
                print(
                    f"{load.clients} clients: {one.tokens_per_s:,.0f} tokens/s, CPU per token, us: {spent}",
                    flush=True,
                )
