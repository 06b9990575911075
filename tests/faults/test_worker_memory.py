"""Bursts of large requests: what a worker holds of them is bounded, and given back."""

from __future__ import annotations

import asyncio
from typing import Any

import psutil
import pytest

from relais_common.jobs.job import Embedding, Job, Operation, Sampling
from relais_common.queue.redis_store import RedisSettings, RedisStore, open_store
from relais_testing.builders import make_job
from relais_testing.process_stack import DETERMINISTIC, MODEL, Starter
from relais_testing.valkey import ValkeyServer
from relais_testing.waiting import wait_until

pytestmark = pytest.mark.timeout(900)

SIZE = 4_000_000
KEPT_MB = 40
MOST_MB = 250
"""At the peak, beside what it had before."""


def prompts(number: int) -> dict[str, Any]:
    texts = ("one more word " * (SIZE // 14), " " * SIZE, (7,) * (SIZE // 4))
    return {"prompt": texts[number % len(texts)], "sampling": Sampling(max_tokens=2)}


def texts(number: int) -> dict[str, Any]:
    asked = (("word " * (SIZE // 5),), ("w" * 1950,) * 2048, ((7,) * (SIZE // 4),))
    return {
        "messages": None,
        "operation": Operation.EMBEDDINGS,
        "embedding": Embedding(inputs=asked[number % len(asked)]),
    }


SMALL: dict[str, dict[str, Any]] = {
    "llm_worker": {"prompt": "a", "sampling": Sampling(max_tokens=2)},
    "embedding_worker": {
        "messages": None,
        "operation": Operation.EMBEDDINGS,
        "embedding": Embedding(inputs=("a",)),
    },
}


async def run(store: RedisStore, *jobs: Job) -> None:
    """Until all have ended, however."""

    async def ended() -> bool:
        states = [await store.intake.state(job.channel_id) for job in jobs]
        return all(state is not None and state.status.is_terminal for state in states)

    for job in jobs:
        await store.intake.enqueue(job, max_waiting=1000)
    await wait_until(ended, every_s=0.5)


@pytest.mark.parametrize(
    ("service", "settings", "large"),
    [
        ("llm_worker", DETERMINISTIC, prompts),
        (
            "embedding_worker",
            {"EMBEDDING_ENGINE": "deterministic", "EMBEDDING_SERVED_NAME": MODEL},
            texts,
        ),
    ],
    ids=["llm_worker", "embedding_worker"],
)
async def test_a_worker_gives_back_what_a_burst_of_large_requests_took(
    start: Starter, redis: ValkeyServer, service: str, settings: dict[str, str], large: Any
) -> None:
    worker = psutil.Process(start(service, **settings).pid)

    def megabytes() -> float:
        resident: int = worker.memory_info().rss
        return resident / 1e6

    async with open_store(RedisSettings(redis.url)) as store:
        for _ in range(20):
            await run(store, make_job("victim", model=MODEL, **SMALL[service]))
        before = peak = megabytes()
        jobs = [make_job("attacker", model=MODEL, **large(number)) for number in range(24)]
        burst = asyncio.create_task(run(store, *jobs))
        while not burst.done():
            peak = max(peak, megabytes())
            await asyncio.sleep(0.05)
        await burst
        assert peak <= before + MOST_MB
        await run(store, make_job("victim", model=MODEL, **SMALL[service]))
        await wait_until(lambda: megabytes() <= before + KEPT_MB)
