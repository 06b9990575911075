"""Relais beside what gives vectors without it: the same model, texts and threads on every side.

They take turns: `SentenceTransformer.encode` over all texts at once in fp32 by torch (the limit), an aiohttp server
that encodes one request after another (what a user would write), on demand infinity_emb, and for each backend that is
asked for, that backend's own `encode` over all texts, and orchestrator, Redis and an embedding worker with it. The
servers get the same requests in the same order from as many clients at once; every vector is compared with the limit's.
CPU time is that of all of a side's processes. With `--format rerank`, requests rank documents by a cross-encoder, and
the limit is `CrossEncoder.predict`.
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
from benchmarks.embedding.loading import write_reranker
from benchmarks.embedding.report import (
    INFINITY,
    LIMIT,
    PLAIN,
    RELAIS,
    Measured,
    Round,
    Row,
    offline_of,
    served_by,
)
from benchmarks.embedding.texts import RERANK
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
    add(
        "--backends",
        nargs="+",
        default=["torch"],
        metavar="BACKEND[:DTYPE]",
        help="of Relais, each in turn: torch, openvino:bfloat16, auto",
    )
    add("--format", choices=["base64", "float", RERANK], default="base64", dest="encoding_format")
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
        backends: of Relais, each with its precision behind a colon where that is not the default.
        encoding_format: in which servers answer; `base64` is what OpenAI's client asks for. `rerank`: scores.
        folder: for converted models, and for the reranker.
        infinity: the command `infinity_emb` of an environment of its own, which it needs; None to leave it out.
    """

    clients: int
    requests: int
    threads: int
    backends: tuple[str, ...]
    encoding_format: str
    folder: Path
    infinity: Path | None = None

    @property
    def reranks(self) -> bool:
        return self.encoding_format == RERANK

    def environment(self, backend: str = "torch:float32") -> dict[str, str]:
        """Of a side's encoder."""
        name, _, dtype = backend.partition(":")
        model = str(self.folder / RERANK) if self.reranks else read_settings({}).encoders[0].model
        return {
            "EMBEDDING_MODEL": model,
            "EMBEDDING_BACKEND": name,
            "EMBEDDING_DTYPE": dtype,
            "MODELS_CACHE_DIR": str(self.folder),
            "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": str(self.threads),
        }


@contextmanager
def started(load: Load, names: Sequence[str]) -> Iterator[dict[str, Server]]:
    """The servers of these names, each ready."""
    with ExitStack() as stack:
        servers = {}
        if PLAIN in names:
            plain = ServiceProcess(
                "benchmarks.embedding.plain_server",
                "PORT",
                load.folder / "plain.log",
                load.environment(),
            )
            stack.enter_context(plain)
            servers[PLAIN] = Server(plain.url, {"server": plain.pid})
        if INFINITY in names:
            servers[INFINITY] = _start_infinity(stack, load, load.folder)
        for backend in load.backends:
            if served_by(backend) in names:
                folder = _folder(load, backend)
                folder.mkdir()
                encoder = {**load.environment(backend), "EMBEDDING_SERVED_NAME": RELAIS}
                models = {"RERANK_MODELS" if load.reranks else "EMBEDDING_MODELS": RELAIS}
                worker = "relais_embedding_worker"
                servers[served_by(backend)] = start_relais(stack, folder, worker, models, encoder)
        yield servers


def _folder(load: Load, backend: str) -> Path:
    return load.folder / backend.replace(":", "-")


def _chosen(load: Load, backend: str) -> str:
    """The backend and the precision with which Relais runs."""
    if backend != "auto":
        name, _, dtype = backend.partition(":")
        return f"{name}:{dtype or 'float32'}"
    for line in (_folder(load, backend) / "worker.log").read_bytes().splitlines():
        if b"backend_measured" in line or b"backend_chosen" in line:
            print(line.decode(), flush=True)
        if b"backend_chosen" in line:
            told = orjson.loads(line)
            return f"{told['backend']}:{told['dtype']}"
    raise RuntimeError("the worker chose no backend")


def _start_infinity(stack: ExitStack, load: Load, folder: Path) -> Server:
    options = {
        "INFINITY_MODEL_ID": load.environment()["EMBEDDING_MODEL"],
        "INFINITY_ENGINE": "torch",
        "INFINITY_DTYPE": "float32",
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
        {**load.environment(), **options},
        command=(str(load.infinity),),
        arguments=("v2",),
        ready_path="/health",
    )
    stack.enter_context(process)
    return Server(process.url, {"server": process.pid})


async def _offline(
    load: Load, seed: int, backend: str, expected: Vectors | None = None
) -> tuple[Measured, Vectors]:
    path = load.folder / "offline.npy"
    process = await prepared(
        "benchmarks.embedding.offline",
        *(str(load.requests), str(seed), load.encoding_format, str(path)),
        **load.environment(backend),
    )
    out, _ = await process.communicate(b"go\n")
    told = orjson.loads(out)
    rows: Vectors = await asyncio.to_thread(np.load, path)
    cpu_ms = {"encoder": told["cpu_s"] / len(rows) * 1000}
    off = _off(rows, rows if expected is None else expected)
    return Measured(len(rows), told["elapsed_s"], (), (), cpu_ms, 0.0, *off), rows


def _off(rows: Vectors, expected: Vectors) -> tuple[float, float]:
    """The largest difference of a number, and the lowest cosine of a vector."""
    assert rows.shape == expected.shape
    lengths = np.linalg.norm(rows, axis=1) * np.linalg.norm(expected, axis=1)
    cosines = np.sum(rows * expected, axis=1) / lengths
    return float(np.abs(rows - expected).max()), float(cosines.min())


async def _measure(server: Server, load: Load, seed: int, expected: Vectors) -> Measured:
    path = load.folder / "served.npy"
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
    difference, cosine = _off(rows, expected)
    spent = {name: after[name] - before[name] for name in before} | {"client": told["cpu_s"]}
    return Measured(
        texts=len(rows),
        elapsed_s=told["elapsed_s"],
        single_s=tuple(took_s for inputs, took_s in told["requests"] if inputs == 1),
        request_s=tuple(took_s for _, took_s in told["requests"]),
        cpu_ms={name: seconds / len(rows) * 1000 for name, seconds in spent.items()},
        client_busy=told["cpu_s"] / told["elapsed_s"],
        difference=difference,
        cosine=cosine,
    )


async def measure(load: Load, rounds: int) -> dict[str, Row]:
    """All sides in turns; a row for each.

    Raises:
        AssertionError, RuntimeError: a client got anything but a vector for each text.
    """
    names = [served_by(backend) for backend in load.backends]
    if load.reranks:
        await asyncio.to_thread(write_reranker, load.folder / RERANK)
    else:
        names = [PLAIN, *([INFINITY] if load.infinity else []), *names]
    measured: list[Round] = []
    with started(load, names) as servers:
        chosen = {backend: _chosen(load, backend) for backend in load.backends}
        for number in range(rounds):
            limit, expected = await _offline(load, number, "torch:float32")
            one = {LIMIT: limit}
            for backend, own in chosen.items():
                if own != "torch:float32":
                    one[offline_of(backend)], _ = await _offline(load, number, own, expected)
            for who, server in servers.items():
                one[who] = await _measure(server, load, number, expected)
            measured.append(one)
            print(report.line(number, one), flush=True)
    return report.table(measured)


async def run(
    *,
    clients: int,
    requests: int,
    rounds: int,
    threads: int,
    backends: Sequence[str],
    encoding_format: str,
    infinity: Path | None,
    hold: bool,
) -> bool:
    """Measure all sides in turns, print the table and the bars. False where one is missed."""
    with tempfile.TemporaryDirectory() as name:
        load = Load(
            *(clients, requests, threads, tuple(backends), encoding_format, Path(name), infinity)
        )
        if hold:
            await _hold(load, rounds)
            return True
        rows = await measure(load, rounds)
    print(
        f"\n{clients} clients, {requests} requests a round, {rounds} rounds in turns, {encoding_format},"
        f" {threads} encoder threads, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"
    )
    print(report.text(rows), end="\n\n")
    bars = report.bars(rows)
    for bar in bars:
        print(bar)
    return all(bar.met for bar in bars)


async def _hold(load: Load, rounds: int) -> None:
    """Relais alone, for a profiler that is told its pids."""
    backend = load.backends[0]
    name = served_by(backend)
    if load.reranks:
        await asyncio.to_thread(write_reranker, load.folder / RERANK)
    with started(load, [name]) as servers:
        server = servers[name]
        print(orjson.dumps(server.pids).decode(), flush=True)
        own = _chosen(load, backend)
        for number in range(rounds):
            limit, expected = await _offline(load, number, own)
            one = await _measure(server, load, number, expected)
            spent = {process: round(ms, 2) for process, ms in one.cpu_ms.items()}
            print(
                f"{one.texts_per_s / limit.texts_per_s:.2f} of offline, {one.texts_per_s:,.0f} texts/s,"
                f" CPU per text, ms: {spent}",
                flush=True,
            )
