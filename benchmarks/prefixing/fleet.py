"""vLLM workers with small prefix caches behind one orchestrator, and clients whose chats share system prompts."""

from __future__ import annotations

import asyncio
import random
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from benchmarks.servers import end_with
from benchmarks.serving.engine import Environment, engine_environment
from relais_testing.process_stack import MODEL
from relais_testing.processes import ServiceProcess
from relais_testing.scrape import scrape
from relais_testing.valkey import ValkeyServer

PROMPTS = 16
PROMPT_WORDS = 480
OUTPUT_TOKENS = 16
CLIENTS = 8
SEQS = 4
KV_MB = 32
"""Of one of four workers: 5,461 tokens of the demo model, where all prompts have over 11,000."""
_WORDS = "le bus de la ligne quatre passe devant la mairie et le marché avant midi".split()


@dataclass(frozen=True, slots=True)
class Fleet:
    """What its workers read, and its clients waited.

    Attributes:
        prompt_tokens: of each worker.
        cached_tokens: of these, in its prefix cache.
    """

    prompt_tokens: tuple[float, ...]
    cached_tokens: tuple[float, ...]
    first_s: tuple[float, ...]

    @property
    def cached(self) -> float:
        return sum(self.cached_tokens) / sum(self.prompt_tokens)

    @property
    def unevenness(self) -> float:
        return max(self.prompt_tokens) * len(self.prompt_tokens) / sum(self.prompt_tokens)


def _system(number: int) -> str:
    rng = random.Random(f"system {number}")
    return " ".join(rng.choice(_WORDS) for _ in range(PROMPT_WORDS))


async def measure(*, workers: int, seconds: float) -> Fleet:
    """Ask so many workers, which have the caches and places of four in all."""
    engine: Environment = {
        **engine_environment(),
        "VLLM_MAX_NUM_SEQS": str(4 * SEQS // workers),
        "VLLM_KV_CACHE_MEMORY_BYTES": str((4 * KV_MB // workers) << 20),
    }
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        (folder / "redis").mkdir()
        redis = stack.enter_context(ValkeyServer(folder / "redis", appendonly=True))
        common = {"ENV": "dev", "MODELS": MODEL, "REDIS_URL": redis.url}
        front = ServiceProcess("relais_orchestrator", "API_PORT", folder / "front.log", common)
        fleet = [
            ServiceProcess(
                "relais_llm_worker", "HEALTH_PORT", folder / f"{number}.log", {**engine, **common}
            )
            for number in range(workers)
        ]
        for process in (front, *fleet):
            end_with(stack, process)
        for process in (front, *fleet):
            process.wait_ready()
        async with aiohttp.ClientSession() as session:
            # Each has read all prompts once, whatever of them it still has.
            await _clients(session, front.url, seconds / 4)
            before = [await scrape(session, process.url) for process in fleet]
            first_s = await _clients(session, front.url, seconds)
            after = [await scrape(session, process.url) for process in fleet]

    def grown(name: str) -> tuple[float, ...]:
        return tuple(b.of(name) - a.of(name) for a, b in zip(before, after, strict=True))

    return Fleet(
        grown("relais_prompt_tokens_total"),
        grown("relais_prompt_tokens_cached_total"),
        tuple(first_s),
    )


async def _clients(session: aiohttp.ClientSession, url: str, seconds: float) -> list[float]:
    first_s: list[float] = []
    end_s = time.monotonic() + seconds
    async with asyncio.TaskGroup() as group:
        for number in range(CLIENTS):
            group.create_task(_client(session, url, number, end_s, first_s))
    return first_s


async def _client(
    session: aiohttp.ClientSession, url: str, number: int, end_s: float, first_s: list[float]
) -> None:
    rng, turn = random.Random(number), 0
    while time.monotonic() < end_s:
        turn += 1
        messages = [
            {"role": "system", "content": _system(rng.randrange(PROMPTS))},
            {"role": "user", "content": f"{number}, {turn}: à quelle heure ?"},
        ]
        body = {
            "model": MODEL,
            "messages": messages,
            "stream": True,
            "temperature": 0,
            "max_tokens": OUTPUT_TOKENS,
            "ignore_eos": True,
        }
        began_s = time.monotonic()
        async with session.post(
            f"{url}/v1/chat/completions",
            json=body,
            headers={"Authorization": f"Bearer client-{number}"},
        ) as response:
            assert response.status == 200, await response.text()
            async for line in response.content:
                if b'"content":"' in line and b'"content":""' not in line:
                    first_s.append(time.monotonic() - began_s)
                    break
            await response.read()
        # As people do; so there is room nearly always.
        await asyncio.sleep(rng.uniform(0.0, 0.2))
