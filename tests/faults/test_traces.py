"""The database, Redis, orchestrators and workers die under load: each accepted request leaves one trace, and only one.

The database is SecantusDB, which speaks MongoDB's protocol, started so that it writes its journal at each commit.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from relais_common.queue import keys
from relais_common.queue.redis_store import RedisSettings, RedisStore, open_store
from relais_testing.kept import Kept, open_kept
from relais_testing.mongo import MongoServer
from relais_testing.process_stack import DETERMINISTIC, MODEL, Starter
from relais_testing.processes import ServiceProcess
from relais_testing.reply_eater import ReplyEater
from relais_testing.stack import Front, Stack, chat_request
from relais_testing.streams import SLOW
from relais_testing.valkey import ValkeyServer
from relais_testing.waiting import wait_until

ENDS = ("complete", "cancel", "cancel", "expire", "leave")


@pytest.fixture
def database(tmp_path: Path) -> Iterator[MongoServer]:
    with MongoServer(tmp_path / "mongo", sync=True) as server:
        yield server


@pytest.fixture
async def kept(database: MongoServer) -> AsyncIterator[Kept]:
    async with open_kept(database.url, MONGODB_TIMEOUT_S="2") as kept:
        yield kept


@pytest.fixture
def server(make_redis_server: Callable[..., ValkeyServer]) -> ValkeyServer:
    return make_redis_server(appendonly=True)


@pytest.fixture
async def stack(server: ValkeyServer, kept: Kept) -> AsyncIterator[Stack]:
    """Ends before the database does."""
    stack = await Stack.open(server.url)
    yield stack
    await stack.close()


class Load:
    """Clients without end, until they are told: each asks, and then waits, cancels, or leaves it to its deadline.

    Attributes:
        accepted: channel ids.
    """

    def __init__(self, stack: Stack, fronts: list[Front], seed: int) -> None:
        self.accepted: list[str] = []
        self._stack = stack
        self._fronts = fronts
        self._rng = random.Random(seed)
        self._over = asyncio.Event()

    async def run(self) -> None:
        await asyncio.gather(*(self._client(number) for number in range(6)))

    def stop(self) -> None:
        self._over.set()

    async def more(self, number: int) -> None:
        """Wait until so many more were accepted: whatever is away, requests are not."""
        goal = len(self.accepted) + number
        await wait_until(lambda: len(self.accepted) >= goal)

    async def _client(self, number: int) -> None:
        while not self._over.is_set():
            front, end = self._rng.choice(self._fronts), self._rng.choice(ENDS)
            tokens = self._rng.randint(1, 40)
            body = chat_request(f"client {number}", params={"max_tokens": tokens})
            if end == "expire":
                # Some run into it, some never begin.
                body |= {"deadline_s": 0.05, "params": {"max_tokens": 20_000}}
            if end == "leave":
                body |= {"on_disconnect": "cancel", "params": {"max_tokens": 20_000}}
            channel_id = await front.submit(body)
            self.accepted.append(channel_id)
            if end == "cancel":
                async with front.delete(f"/v1/channels/{channel_id}") as response:
                    assert response.status in (200, 202)

            async def ended(channel_id: str = channel_id, front: Front = front) -> bool:
                return await front.is_terminal(channel_id)

            await wait_until(ended)

    async def check(self, kept: Kept) -> None:
        """One for one, and as each channel says of itself."""

        async def all_written() -> bool:
            view = await self._stack.store.inspector.queue("org/model", top_keys=0)
            return view.waiting_traces == 0

        await wait_until(all_written)
        documents = {one["_id"]: one for one in await kept.documents()}
        assert sorted(documents) == sorted(self.accepted)
        assert await kept.count() == len(self.accepted)
        for channel_id, found in documents.items():
            state = await self._fronts[0].state(channel_id)
            assert found["status"] == state["status"]
            phases = sum(found[name] for name in ("queue_s", "prefill_s", "decode_s", "stalled_s"))
            assert abs(found["e2e_s"] - phases) < 1e-6
            assert abs(found["e2e_s"] - (state["finished_at_s"] - state["accepted_at_s"])) < 1e-3
        ends = {one["status"] for one in documents.values()}
        assert ends >= {"completed", "cancelled", "expired"}


async def loaded(stack: Stack, kept: Kept, seed: int) -> Load:
    fronts = [await stack.front(**kept.settings) for _ in range(2)]
    for _ in range(2):
        await stack.worker(max_num_seqs=4, tokens_per_s=400)
    return Load(stack, fronts, seed)


async def test_the_database_is_killed_and_frozen_under_load(
    stack: Stack, database: MongoServer, kept: Kept
) -> None:
    load = await loaded(stack, kept, seed=1)
    async with asyncio.TaskGroup() as group:
        group.create_task(load.run())
        for _ in range(2):
            await load.more(15)
            database.kill()
            await load.more(15)
            await asyncio.to_thread(database.start)
        await load.more(15)
        os.kill(database.pid, signal.SIGSTOP)
        await load.more(15)
        os.kill(database.pid, signal.SIGCONT)
        await load.more(15)
        load.stop()
    await load.check(kept)


async def test_redis_is_killed_while_traces_are_on_their_way(
    stack: Stack, server: ValkeyServer, database: MongoServer, kept: Kept
) -> None:
    """Its append-only file has every step that was answered, the ends and their traces with them."""
    load = await loaded(stack, kept, seed=2)
    # They pile up, so that the kill comes upon many.
    database.kill()
    async with asyncio.TaskGroup() as group:
        group.create_task(load.run())
        await load.more(20)
        load.stop()
    await asyncio.to_thread(server.restart)
    await asyncio.to_thread(database.start)
    await load.check(kept)


async def test_answers_to_the_writers_are_lost(
    server: ValkeyServer, database: MongoServer, kept: Kept
) -> None:
    """Every second answer to each of their steps: what they then do again changes nothing."""
    async with ReplyEater(server.host, server.port) as eater:
        stack = await Stack.open(server.url)
        through = await Stack.open(eater.url)
        try:
            for name in ("collect", "written"):
                eater.eat_every(name, 2)
            writers = [await through.front(**kept.settings) for _ in range(2)]
            front = await stack.front(**{**kept.settings, "TRACE_WRITE_EVERY_S": "60"})
            assert writers
            await stack.worker()
            ids: list[str] = []

            async def all_written() -> bool:
                return (await stack.store.redis.xlen(keys.traces("org/model"))) == 0 and (
                    await kept.count() == len(ids)
                )

            async def answers_of_both_are_lost() -> bool:
                # As many as come together are one step of a writer.
                ids.extend([await front.submit(chat_request(f"{number}")) for number in range(3)])
                await wait_until(all_written)
                return eater.eaten["written"] > 0 and eater.eaten["collect"] > 0

            await wait_until(answers_of_both_are_lost)
            assert await kept.ids() == sorted(ids)
        finally:
            eater.stop_eating()
            await through.close()
            await stack.close()


# Processes


async def submit(session: aiohttp.ClientSession, front: ServiceProcess, tokens: int) -> str:
    body = {"model": MODEL, "prompt": "hello", "params": {"max_tokens": tokens}}
    async with session.post(f"{front.url}/v1/requests", json=body) as response:
        assert response.status == 202, await response.text()
        channel_id: str = (await response.json())["channel_id"]
        return channel_id


@pytest.fixture
async def store(redis: ValkeyServer) -> AsyncIterator[RedisStore]:
    async with open_store(RedisSettings(redis.url)) as store:
        yield store


async def test_an_orchestrator_is_killed_between_the_write_and_its_receipt(
    start: Starter,
    redis: ValkeyServer,
    store: RedisStore,
    kept: Kept,
    session: aiohttp.ClientSession,
) -> None:
    async with ReplyEater(redis.host, redis.port) as proxy:
        proxy.hold("written")
        settings = {**kept.settings, "MONGODB_TIMEOUT_S": "0.5"}
        front = await asyncio.to_thread(
            start, "orchestrator", **{**settings, "REDIS_URL": proxy.url}
        )
        await asyncio.to_thread(start, "llm_worker", **DETERMINISTIC)
        ids = sorted([await submit(session, front, 3) for _ in range(5)])

        async def written_and_not_told() -> bool:
            return proxy.requests["written"] > 0

        await wait_until(written_and_not_told)
        before = await kept.documents()
        assert before
        front.kill()

    async def all_wait() -> bool:
        return (await store.inspector.queue(MODEL, top_keys=0)).waiting_traces == 5

    # Nobody has said that they are written, and some may end only now.
    await wait_until(all_wait)

    await asyncio.to_thread(start, "orchestrator", **settings)

    async def all_written() -> bool:
        return (await store.inspector.queue(MODEL, top_keys=0)).waiting_traces == 0

    await wait_until(all_written)
    assert await kept.ids() == ids
    after = {one["_id"]: one for one in await kept.documents()}
    assert [after[one["_id"]] for one in before] == before, "what was there is as it was"


async def test_a_worker_is_killed_and_its_request_stalls(
    start: Starter, kept: Kept, session: aiohttp.ClientSession
) -> None:
    front = await asyncio.to_thread(start, "orchestrator", **kept.settings)
    # Longer than a busy machine stands still: it is lost once, by the kill.
    lease_s = 4.0
    leased = {"LEASE_S": f"{lease_s}"}
    worker = await asyncio.to_thread(start, "llm_worker", **SLOW, **leased)
    channel_id = await submit(session, front, 300)

    async def has_begun() -> bool:
        async with session.get(f"{front.url}/v1/channels/{channel_id}") as response:
            tail: int = (await response.json())["last_event_id"]
            return tail > 10

    await wait_until(has_begun)
    worker.kill()
    await asyncio.to_thread(start, "llm_worker", **DETERMINISTIC, **leased)
    found: dict[str, Any] = await kept.document(channel_id)
    assert (found["status"], found["takes"], found["failures"]) == ("completed", 2, 0)
    assert (found["output_tokens"], found["wasted_tokens"]) == (300, 0)
    # Last heard of at most a third of a lease before its death, and taken over when its lease was over.
    assert found["stalled_s"] > lease_s * 0.6
    # Not the time in which nobody decoded.
    assert found["decode_s"] < found["e2e_s"] - found["stalled_s"]
    assert found["e2e_s"] == pytest.approx(
        found["queue_s"] + found["prefill_s"] + found["decode_s"] + found["stalled_s"]
    )
