"""Whoever feeds a batch dies, and so do workers, Redis and MongoDB: each request has one result, and only one.

The database is SecantusDB, which speaks MongoDB's protocol, started so that it writes its journal at each commit.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from relais_llm_worker.engines.engine_deterministic import answer_text
from relais_testing.batches import BatchClient, encode, line
from relais_testing.kept import Kept, open_kept
from relais_testing.mongo import MongoServer
from relais_testing.process_stack import DETERMINISTIC, MODEL, Starter
from relais_testing.processes import ServiceProcess
from relais_testing.valkey import ValkeyServer
from relais_testing.waiting import wait_until

LINES = 240
TOKENS = 20
SLOW = {**DETERMINISTIC, "DETERMINISTIC_TOKENS_PER_S": "60", "VLLM_MAX_NUM_SEQS": "8"}


@pytest.fixture
def redis(make_redis_server: Callable[..., ValkeyServer]) -> ValkeyServer:
    return make_redis_server(appendonly=True)


@pytest.fixture
def database(tmp_path: Path) -> Iterator[MongoServer]:
    with MongoServer(tmp_path / "mongo", sync=True) as server:
        yield server


@pytest.fixture
async def kept(database: MongoServer) -> AsyncIterator[Kept]:
    async with open_kept(database.url, BATCH_LEASE_S="2") as kept:
        yield kept


def requests() -> list[dict[str, Any]]:
    return [
        line(
            number,
            url="/v1/completions",
            body={"model": MODEL, "prompt": f"line {number}", "max_tokens": TOKENS},
        )
        for number in range(LINES)
    ]


class Batch:
    """One batch, watched through whichever orchestrator lives."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session
        self.batch_id = ""

    async def create(self, front: ServiceProcess) -> None:
        client = BatchClient(self._session, base_url=front.url)
        self.batch_id = await client.create(encode(requests()), "/v1/completions")

    async def completes(self, front: ServiceProcess, more: int) -> None:
        """Wait until so many more requests have ended."""
        client = BatchClient(self._session, base_url=front.url)
        goal = 0

        async def reached() -> bool:
            nonlocal goal
            try:
                done = (await client.show(self.batch_id))["request_counts"]["completed"]
            except (aiohttp.ClientError, AssertionError):
                return False  # MongoDB is away
            goal = goal or done + more
            return bool(done >= min(goal, LINES))

        await wait_until(reached, every_s=0.05)

    async def check(self, front: ServiceProcess) -> None:
        """Each request has its right answer, once."""
        client = BatchClient(self._session, base_url=front.url)
        batch = await client.ended(self.batch_id)
        assert batch["status"] == "completed"
        assert batch["request_counts"] == {"total": LINES, "completed": LINES, "failed": 0}
        found = await client.content(batch["output_file_id"])
        assert Counter(one["custom_id"] for one in found) == Counter(
            f"r-{number}" for number in range(LINES)
        )
        for one in found:
            prompt = one["custom_id"].replace("r-", "line ")
            said = one["response"]["body"]["choices"][0]["text"]
            assert said == answer_text(list(prompt.encode()), TOKENS)


async def test_batch_outlives_its_feeders_and_workers(
    start: Starter, kept: Kept, session: aiohttp.ClientSession
) -> None:
    fronts = [start("orchestrator", **kept.settings) for _ in range(2)]
    workers = [start("llm_worker", **SLOW) for _ in range(2)]
    batch = Batch(session)
    await batch.create(fronts[0])
    for victim in (0, 1, 0):
        await batch.completes(fronts[1 - victim], 20)
        fronts[victim].kill()
        workers[victim].kill()
        await batch.completes(fronts[1 - victim], 10)
        fronts[victim] = await asyncio.to_thread(start, "orchestrator", **kept.settings)
        workers[victim] = await asyncio.to_thread(start, "llm_worker", **SLOW)
    await batch.check(fronts[0])


async def test_batch_outlives_its_stores(
    start: Starter,
    kept: Kept,
    database: MongoServer,
    redis: ValkeyServer,
    session: aiohttp.ClientSession,
) -> None:
    front = start("orchestrator", **kept.settings)
    start("llm_worker", **SLOW)
    batch = Batch(session)
    await batch.create(front)
    for store in (database, redis, database):
        await batch.completes(front, 20)
        await asyncio.to_thread(store.kill)
        await asyncio.to_thread(store.start)
    await batch.check(front)


async def test_batch_is_cancelled_though_its_feeder_is_dead(
    start: Starter, kept: Kept, session: aiohttp.ClientSession
) -> None:
    fronts = [start("orchestrator", **kept.settings) for _ in range(2)]
    # All of it would take two minutes.
    start("llm_worker", **SLOW | {"DETERMINISTIC_TOKENS_PER_S": "5"})
    batch = Batch(session)
    await batch.create(fronts[0])
    await batch.completes(fronts[0], 2)
    await batch.completes(fronts[1], 1)
    fronts[0].kill()
    client = BatchClient(session, base_url=fronts[1].url)
    await client.cancel(batch.batch_id)
    ended = await client.ended(batch.batch_id)
    assert ended["status"] == "cancelled"
    done = await client.content(ended["output_file_id"])
    not_run = await client.content(ended["error_file_id"])
    assert Counter(one["custom_id"] for one in [*done, *not_run]) == Counter(
        f"r-{number}" for number in range(LINES)
    )
