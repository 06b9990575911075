"""Relais beside what gives vectors without it: the same model, texts, threads and precision on every side.

They take turns: `SentenceTransformer.encode` over all texts at once (the limit), an aiohttp server that encodes one
request after another (what a user would write), on demand infinity_emb, and orchestrator, Redis and embedding worker.
The servers get the same requests in the same order from as many clients at once; every vector is compared with the
limit's. CPU time is that of all of a side's processes.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import orjson
from numpy.typing import NDArray

from benchmarks.embedding import report
from benchmarks.embedding.report import INFINITY, LIMIT, PLAIN, RELAIS, Measured, Round, Row
from benchmarks.servers import Server, prepared, start_relais
from relais_embedding_worker.settings import read_settings
from relais_testing.processes import ServiceProcess

HELP = "vectors, beside the model alone and a plain server"
Vectors = NDArray[np.float32]


def add_options(parser: argparse.ArgumentParser) -> None:
    """Of `run`."""
    add = parser.add_argument
    add("--clients", type=int, default=64)
    add("--requests", type=int, default=256, help="of a round, 1 to 32 texts in each")
    add("--rounds", type=int, default=5)
    add("--threads", type=int, default=1, help="of the encoder, on every side")
    add("--dtype", choices=["float32", "bfloat16"], default="float32")
    add("--format", choices=["base64", "float"], default="base64", dest="encoding_format")
    infinity = "its command, in an environment of its own: one server more"
    add("--infinity", type=Path, help=infinity)
    add("--hold", action="store_true", help="run Relais only, for a profiler")


@dataclass(frozen=True, slots=True)
class Load:
    """What is asked for, and with what it is answered.

    Attributes:
        clients: at once; each takes the next request when it has its answer.
        requests: in all, of one to 32 texts.
        threads: of the encoder, on every side.
        dtype: of the model, on every side.
        encoding_format: in which servers answer; `base64` is what OpenAI's client asks for.
        infinity: the command `infinity_emb` of an environment of its own, which it needs; None to leave it out.
    """

    clients: int
    requests: int
    threads: int
    dtype: str
    encoding_format: str
    infinity: Path | None = None

    @property
    def environment(self) -> dict[str, str]:
        """Of every side's encoder."""
        return {
            "EMBEDDING_MODEL": read_settings({}).encoders[0].model,
            "EMBEDDING_DTYPE": self.dtype,
            "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": str(self.threads),
        }


@contextmanager
def started(load: Load, names: Sequence[str]) -> Iterator[dict[str, Server]]:
    """The servers of these names, each ready."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        servers = {}
        if PLAIN in names:
            plain = ServiceProcess(
                "benchmarks.embedding.plain_server", "PORT", folder / "plain.log", load.environment
            )
            stack.enter_context(plain)
            servers[PLAIN] = Server(plain.url, {"server": plain.pid})
        if INFINITY in names:
            servers[INFINITY] = _start_infinity(stack, load, folder)
        if RELAIS in names:
            encoder = {**load.environment, "EMBEDDING_SERVED_NAME": RELAIS}
            models = {"EMBEDDING_MODELS": RELAIS}
            worker = "relais_embedding_worker"
            servers[RELAIS] = start_relais(stack, folder, worker, models, encoder)
        yield servers


def _start_infinity(stack: ExitStack, load: Load, folder: Path) -> Server:
    options = {
        "INFINITY_MODEL_ID": load.environment["EMBEDDING_MODEL"],
        "INFINITY_ENGINE": "torch",
        "INFINITY_DTYPE": load.dtype,
        "INFINITY_BETTERTRANSFORMER": "0",
        "INFINITY_URL_PREFIX": "/v1",
        "INFINITY_HOST": "127.0.0.1",
        "INFINITY_ANONYMOUS_USAGE_STATS": "0",
        "INFINITY_LOG_LEVEL": "warning",
        "DO_NOT_TRACK": "1",
    }
    process = ServiceProcess(
        "infinity_emb",
        "INFINITY_PORT",
        folder / "infinity.log",
        {**load.environment, **options},
        command=(str(load.infinity),),
        arguments=("v2",),
        ready_path="/health",
    )
    stack.enter_context(process)
    return Server(process.url, {"server": process.pid})


async def _offline(load: Load, seed: int, folder: Path) -> tuple[Measured, Vectors]:
    path = folder / "offline.npy"
    process = await prepared(
        "benchmarks.embedding.offline",
        *(str(load.requests), str(seed), str(path)),
        **load.environment,
    )
    out, _ = await process.communicate(b"go\n")
    told = orjson.loads(out)
    rows: Vectors = await asyncio.to_thread(np.load, path)
    cpu_ms = {"encoder": told["cpu_s"] / len(rows) * 1000}
    return Measured(len(rows), told["elapsed_s"], (), (), cpu_ms, 0.0, 0.0), rows


async def _measure(
    server: Server, load: Load, seed: int, folder: Path, expected: Vectors
) -> Measured:
    path = folder / "served.npy"
    process = await prepared(
        "benchmarks.embedding.client",
        *(server.url, RELAIS, str(load.clients), str(load.requests), str(seed)),
        *(load.encoding_format, str(path)),
    )
    before = server.cpu_s()
    out, _ = await process.communicate(b"go\n")
    after = server.cpu_s()
    assert process.returncode == 0, "the client got something else"
    told = orjson.loads(out)
    rows: Vectors = await asyncio.to_thread(np.load, path)
    assert rows.shape == expected.shape
    spent = {name: after[name] - before[name] for name in before} | {"client": told["cpu_s"]}
    return Measured(
        texts=len(rows),
        elapsed_s=told["elapsed_s"],
        single_s=tuple(took_s for inputs, took_s in told["requests"] if inputs == 1),
        request_s=tuple(took_s for _, took_s in told["requests"]),
        cpu_ms={name: seconds / len(rows) * 1000 for name, seconds in spent.items()},
        client_busy=told["cpu_s"] / told["elapsed_s"],
        difference=float(np.abs(rows - expected).max()),
    )


async def measure(load: Load, rounds: int) -> dict[str, Row]:
    """All sides in turns; a row for each.

    Raises:
        AssertionError, RuntimeError: a client got anything but a vector for each text.
    """
    names = [PLAIN, *([INFINITY] if load.infinity else []), RELAIS]
    measured: list[Round] = []
    with tempfile.TemporaryDirectory() as name, started(load, names) as servers:
        folder = Path(name)
        for number in range(rounds):
            limit, expected = await _offline(load, number, folder)
            one = {LIMIT: limit}
            for who, server in servers.items():
                one[who] = await _measure(server, load, number, folder, expected)
            measured.append(one)
            print(report.line(number, one), flush=True)
    return report.table(measured)


async def run(
    *,
    clients: int,
    requests: int,
    rounds: int,
    threads: int,
    dtype: str,
    encoding_format: str,
    infinity: Path | None,
    hold: bool,
) -> bool:
    """Measure all sides in turns, print the table and the bars. False where one is missed."""
    load = Load(clients, requests, threads, dtype, encoding_format, infinity)
    if hold:
        await _hold(load, rounds)
        return True
    rows = await measure(load, rounds)
    print(
        f"\n{clients} clients, {requests} requests a round, {rounds} rounds in turns, {dtype}, {encoding_format},"
        f" {threads} encoder threads, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"
    )
    print(report.text(rows), end="\n\n")
    bars = report.bars(rows)
    for bar in bars:
        print(bar)
    return all(bar.met for bar in bars)


async def _hold(load: Load, rounds: int) -> None:
    """Relais alone, for a profiler that is told its pids."""
    with tempfile.TemporaryDirectory() as name, started(load, [RELAIS]) as servers:
        server, folder = servers[RELAIS], Path(name)
        print(orjson.dumps(server.pids).decode(), flush=True)
        for number in range(rounds):
            limit, expected = await _offline(load, number, folder)
            one = await _measure(server, load, number, folder, expected)
            spent = {process: round(ms, 2) for process, ms in one.cpu_ms.items()}
            print(
                f"{one.texts_per_s / limit.texts_per_s:.2f} of offline, {one.texts_per_s:,.0f} texts/s,"
                f" CPU per text, ms: {spent}",
                flush=True,
            )
