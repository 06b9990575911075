"""Whoever serves background responses dies, and workers, Redis and MongoDB: each is whole, and streams once more.

The database is SecantusDB, which speaks MongoDB's protocol, started so that it writes its journal at each commit.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import random
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from relais_llm_worker.engines.engine_deterministic import answer_text, chat_prompt
from relais_testing.kept import Kept, open_kept
from relais_testing.mongo import MongoServer
from relais_testing.process_stack import DETERMINISTIC, MODEL, Starter
from relais_testing.sse_client import sse_events
from relais_testing.valkey import ValkeyServer
from relais_testing.waiting import wait_until

RESPONSES = 100
TOKENS = 60
VICTIMS = ("orchestrator", "worker", "redis", "mongodb")
KILLED_EVERY_S = 3.0
AT_ONCE = 8
"""Responses that are read at once."""

# Undisturbed, all of them take as long as every victim's death.
SLOW = {**DETERMINISTIC, "DETERMINISTIC_TOKENS_PER_S": "40", "VLLM_MAX_NUM_SEQS": "6"}
Event = dict[str, Any]


@pytest.fixture
def redis(make_redis_server: Callable[..., ValkeyServer]) -> ValkeyServer:
    return make_redis_server(appendonly=True)


@pytest.fixture
def database(tmp_path: Path) -> Iterator[MongoServer]:
    with MongoServer(tmp_path / "mongo", sync=True) as server:
        yield server


@pytest.fixture
async def kept(database: MongoServer) -> AsyncIterator[Kept]:
    # What a dead one holds of its records is another's after three of these.
    async with open_kept(database.url, MONGODB_TIMEOUT_S="2") as kept:
        yield kept


class Client:
    """Asks whichever orchestrator answers, again and again."""

    def __init__(self, session: aiohttp.ClientSession, urls: list[str]) -> None:
        self._session = session
        self.urls = urls

    async def call(self, method: str, path: str, **options: Any) -> Any:
        """The JSON of an answer with status 200."""
        answer: Any = None

        async def answered() -> bool:
            nonlocal answer
            for url in self.urls:
                try:
                    async with self._session.request(method, url + path, **options) as response:
                        assert response.status in (200, 503), await response.text()
                        if response.status == 200:
                            answer = await response.json()
                            return True
                except aiohttp.ClientError:
                    continue
            return False

        await wait_until(answered, every_s=0.05)
        return answer

    async def create(self, number: int) -> str:
        body = {
            "model": MODEL,
            "input": f"number {number}",
            "max_output_tokens": TOKENS,
            "background": True,
        }
        headers = {"Idempotency-Key": f"response-{number}"}
        created = await self.call("POST", "/v1/responses", json=body, headers=headers)
        response_id: str = created["id"]
        return response_id

    async def streamed(self, response_id: str, after: int) -> list[Event]:
        """Its events after this number, wherever they come from."""
        seen: list[Event] = []
        while not seen or seen[-1]["type"] not in ("response.incomplete", "response.failed"):
            last = seen[-1]["sequence_number"] if seen else after
            url = random.choice(self.urls)
            query = {"stream": "true"}
            if last >= 0:
                query["starting_after"] = str(last)
            try:
                async with self._session.get(
                    f"{url}/v1/responses/{response_id}", params=query
                ) as response:
                    if response.status != 200:
                        assert response.status == 503, await response.text()
                        await asyncio.sleep(0.1)
                        continue
                    async for event in sse_events(response):
                        if event.name != "error":
                            seen.append(json.loads(event.data))  # noqa: PERF401 - a break keeps them
            except aiohttp.ClientError:
                await asyncio.sleep(0.1)
        return seen


def expected(number: int) -> str:
    return answer_text(chat_prompt([("user", f"number {number}")]), TOKENS)


@pytest.mark.slow
async def test_background_responses_outlive_everything(
    start: Starter,
    kept: Kept,
    database: MongoServer,
    redis: ValkeyServer,
    session: aiohttp.ClientSession,
) -> None:
    fronts = [start("orchestrator", **kept.settings) for _ in range(2)]
    workers = [start("llm_worker", **SLOW) for _ in range(2)]
    client = Client(session, [one.url for one in fronts])
    done, killed = asyncio.Event(), list[str]()

    async def kill(victim: str, at: int) -> None:
        if victim == "orchestrator":
            fronts[at].kill()
            fronts[at] = await asyncio.to_thread(start, "orchestrator", **kept.settings)
            client.urls[at] = fronts[at].url
        elif victim == "worker":
            workers[at].kill()
            workers[at] = await asyncio.to_thread(start, "llm_worker", **SLOW)
        else:
            store = redis if victim == "redis" else database
            await asyncio.to_thread(store.kill)
            await asyncio.to_thread(store.start)
        killed.append(victim)

    async def disturb() -> None:
        """Kill one after another, until all responses have ended and everybody has died once."""
        for number, victim in enumerate(itertools.cycle(VICTIMS)):
            if done.is_set() and number >= len(VICTIMS):
                return
            await kill(victim, number // len(VICTIMS) % 2)
            with suppress(TimeoutError):
                await asyncio.wait_for(done.wait(), KILLED_EVERY_S)

    async def ended(response_id: str) -> bool:
        answer = await client.call("GET", f"/v1/responses/{response_id}")
        return answer["status"] not in ("queued", "in_progress")

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(disturb())
        ids = [await client.create(number) for number in range(RESPONSES)]
        watched = tasks.create_task(client.streamed(ids[-1], -1))
        # They end in about this order.
        for response_id in ids:
            await wait_until(partial(ended, response_id), every_s=0.2)
        done.set()
    assert set(killed) == set(VICTIMS)

    rng, places = random.Random(1), asyncio.Semaphore(AT_ONCE)

    async def check(number: int, response_id: str) -> None:
        async with places:
            answer = await client.call("GET", f"/v1/responses/{response_id}")
            assert answer["output"][0]["content"][0]["text"] == expected(number)
            whole = await client.streamed(response_id, -1)
            assert [one["sequence_number"] for one in whole] == list(range(len(whole)))
            assert whole[-1]["response"] == answer
            after = rng.randrange(len(whole) - 1)
            assert await client.streamed(response_id, after) == whole[after + 1 :]

    async with asyncio.TaskGroup() as tasks:
        for number, response_id in enumerate(ids):
            tasks.create_task(check(number, response_id))
    seen = watched.result()
    assert [one["sequence_number"] for one in seen] == list(range(len(seen)))

    async def all_stored() -> bool:
        return await kept.database["responses"].count_documents({}) == RESPONSES

    await wait_until(all_stored)
