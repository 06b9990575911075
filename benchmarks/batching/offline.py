"""The same file through `vllm run-batch` and through a batch of Relais, over the same engine settings.

As a program (`python -m benchmarks.batching.offline run-batch ...`) it is `vllm run-batch` that prints how long it took
from the reading of its file to the writing of its results. The start of its engine is left out, as Relais's is.
"""

from __future__ import annotations

import asyncio
import re
import runpy
import tempfile
import time
from argparse import Namespace
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import orjson

from benchmarks.batching.stack import open_stack
from benchmarks.serving.engine import (
    Environment,
    engine_environment,
    run_vllm,
    serve_arguments,
)
from relais_testing.batches import BatchClient, encode, line

TIMEOUT_S = 3600.0
_TOOK = re.compile(r"^took ([\d.]+) s$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Offline:
    """One side's turn.

    Attributes:
        texts: by `custom_id`.
    """

    seconds: float
    tokens: int
    texts: dict[str, str]

    @property
    def tokens_per_s(self) -> float:
        return self.tokens / self.seconds


async def measure(*, lines: int, tokens: int, rounds: int) -> list[tuple[Offline, Offline]]:
    """Each round's `vllm run-batch` and Relais. Answers are greedy and exactly as long as this."""
    environment = engine_environment()
    measured = []
    for number in range(rounds):
        requests = [
            line(at, body=_chat(environment, f"{number}-{at}: le bus est en retard.", tokens))
            for at in range(lines)
        ]
        peer = await _run_batch(environment, encode(requests))
        own = await _relais(environment, encode(requests))
        measured.append((peer, own))
        print(
            f"round {number}: vllm run-batch {peer.tokens_per_s:,.0f} tokens/s, Relais {own.tokens_per_s:,.0f}"
            f" ({own.tokens_per_s / peer.tokens_per_s:.2f})",
            flush=True,
        )
    return measured


def _chat(environment: Environment, prompt: str, tokens: int) -> dict[str, Any]:
    return {
        "model": environment["SERVED_MODEL_NAME"],
        "messages": [{"role": "user", "content": prompt}],
        "temperature": 0,
        "max_tokens": tokens,
        "ignore_eos": True,
    }


async def _run_batch(environment: Environment, content: bytes) -> Offline:
    model, *options = serve_arguments(environment)
    with tempfile.TemporaryDirectory() as folder:
        asked, answered = Path(folder, "in.jsonl"), Path(folder, "out.jsonl")
        await asyncio.to_thread(asked.write_bytes, content)
        printed = await run_vllm(
            [
                *("benchmarks.batching.offline", "run-batch"),
                *("-i", str(asked), "-o", str(answered), "--model", model, *options),
            ],
            environment,
        )
        took = _TOOK.search(printed)
        if took is None:
            raise RuntimeError(f"vllm run-batch:\n{printed[-4000:]}")
        return _read(
            float(took[1]),
            map(orjson.loads, (await asyncio.to_thread(answered.read_bytes)).splitlines()),
        )


async def _relais(environment: Environment, content: bytes) -> Offline:
    with open_stack(environment) as stack:
        async with aiohttp.ClientSession() as session:
            client = BatchClient(session, stack.front.url)
            began_s = time.perf_counter()
            batch = await client.ended(await client.create(content), TIMEOUT_S)
            results = await client.content(batch["output_file_id"])
            return _read(time.perf_counter() - began_s, results)


def _read(seconds: float, results: Any) -> Offline:
    tokens, texts = 0, {}
    for one in results:
        assert one["response"]["status_code"] == 200, one
        body = one["response"]["body"]
        tokens += body["usage"]["completion_tokens"]
        texts[one["custom_id"]] = body["choices"][0]["message"]["content"]
    return Offline(seconds, tokens, texts)


def _time_run_batch() -> None:
    from vllm.entrypoints.launchers import run_batch as launcher

    run_batch = launcher.run_batch

    async def timed(engine_client: Any, args: Namespace) -> None:
        began_s = time.perf_counter()
        await run_batch(engine_client, args)
        print(f"\ntook {time.perf_counter() - began_s:.3f} s", flush=True)

    launcher.run_batch = timed


if __name__ == "__main__":
    _time_run_batch()
    runpy.run_module("relais_testing.vllm_command", run_name="__main__")
