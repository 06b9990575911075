"""How much the relay costs: chunks per second through orchestrator, Redis and worker, against no relay at all.

The engine is deterministic and costs nearly nothing, so what is measured is everything around it. The reference is an
aiohttp server that writes the same chunks with no queue: the limit of this machine and client. Every chunk counted was
received by the client as a frame of its own.
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from support.process_stack import DETERMINISTIC, MODEL, make_starter
from support.processes import ServiceProcess
from support.valkey import ValkeyServer


@dataclass(frozen=True, slots=True)
class Measured:
    chunks_per_s: float
    first_chunk_ms_p50: float


async def _one(session: aiohttp.ClientSession, url: str, tokens: int) -> tuple[int, float]:
    """Chunks with text that one streamed request got, and seconds to the first."""
    body = {
        "model": MODEL,
        "messages": [{"role": "user", "content": "measure"}],
        "max_tokens": tokens,
        "stream": True,
    }
    began_s, first_s, chunks = time.perf_counter(), 0.0, 0
    async with session.post(f"{url}/v1/chat/completions", json=body) as response:
        assert response.status == 200, await response.text()
        async for line in response.content:
            if b'"content":"' in line and b'"content":""' not in line:
                chunks += 1
                first_s = first_s or time.perf_counter() - began_s
    assert chunks == tokens, f"{chunks} chunks of {tokens}"
    return chunks, first_s


async def _measure(url: str, *, clients: int, tokens: int) -> Measured:
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        await _one(session, url, tokens)
        began_s = time.perf_counter()
        results = await asyncio.gather(*(_one(session, url, tokens) for _ in range(clients)))
        elapsed_s = time.perf_counter() - began_s
    return Measured(
        chunks_per_s=sum(chunks for chunks, _ in results) / elapsed_s,
        first_chunk_ms_p50=statistics.median(first_s for _, first_s in results) * 1000,
    )


async def run(*, clients: int, tokens: int, rounds: int) -> None:
    """Measure both, in turns, and print the medians and their ratio."""
    with ExitStack() as stack:
        redis_dir, logs_dir = (
            Path(stack.enter_context(tempfile.TemporaryDirectory())) for _ in range(2)
        )
        redis = stack.enter_context(
            ValkeyServer(redis_dir, appendonly=True, options={"appendfsync": "everysec"})
        )
        start = make_starter(stack, redis, logs_dir)
        reference = stack.enter_context(
            ServiceProcess("benchmarks.bare_server", "PORT", logs_dir / "bare.log", {})
        )
        start("llm_worker", **DETERMINISTIC)
        front = start("orchestrator", LOG_LEVEL="warning")
        urls = {"bare aiohttp, no queue": reference.url, "Relais": front.url}
        measured: dict[str, list[Measured]] = {name: [] for name in urls}
        for _ in range(rounds):
            for name, url in urls.items():
                measured[name].append(await _measure(url, clients=clients, tokens=tokens))
    _print(measured, clients, tokens)


def _print(measured: dict[str, list[Measured]], clients: int, tokens: int) -> None:
    print(f"{clients} clients x {tokens} tokens, median of {len(next(iter(measured.values())))}")
    rates = {
        name: statistics.median(one.chunks_per_s for one in rounds)
        for name, rounds in measured.items()
    }
    limit = next(iter(rates.values()))
    for name, rounds in measured.items():
        first_ms = statistics.median(one.first_chunk_ms_p50 for one in rounds)
        print(
            f"{name:24} {rates[name]:>10,.0f} chunks/s   {rates[name] / limit:5.2f} of the limit"
            f"   first chunk p50 {first_ms:7.1f} ms"
        )
