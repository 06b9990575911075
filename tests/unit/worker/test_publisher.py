"""Sending events: one call for all of one turn, again after a failure, from the tail that the log has."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from relais_common.jobs.events import Token
from relais_common.jobs.job import Verdict
from relais_common.queue.ports import TakeRequest
from relais_common.worker.held import HeldJob
from relais_common.worker.publisher import Publisher
from relais_testing.builders import MODEL, hold, make_job
from relais_testing.faults import Faults
from relais_testing.memory import MemoryStore
from relais_testing.owned import end_task
from relais_testing.waiting import wait_until


@pytest.fixture
def faults() -> Faults:
    return Faults()


@pytest.fixture
async def publisher(memory_store: MemoryStore, faults: Faults) -> AsyncIterator[Publisher]:
    publisher = Publisher(faults.around(memory_store))
    running = asyncio.create_task(publisher.run())
    yield publisher
    await end_task(running)


async def take(store: MemoryStore, count: int) -> list[HeldJob]:
    for _ in range(count):
        await store.enqueue(make_job(), max_waiting=100)
    take = await store.take(
        TakeRequest(MODEL, count, worker_id="w", call_id="1", lease_s=60, idle=False)
    )
    return [hold(one) for one in take.jobs]


async def test_what_comes_up_in_one_turn_goes_in_one_call(
    memory_store: MemoryStore, faults: Faults, publisher: Publisher
) -> None:
    held_jobs = await take(memory_store, 10)
    for held in held_jobs:
        held.add(Token("a", (1,)))
        publisher.send(held)
    await wait_until(lambda: not any(held.has_unsent for held in held_jobs))
    assert faults.count("append") == 1


async def test_a_first_event_leaves_at_once_and_later_ones_when_their_time_has_come(
    memory_store: MemoryStore, faults: Faults
) -> None:
    publisher = Publisher(faults.around(memory_store), interval_s=0.5)
    running = asyncio.create_task(publisher.run())
    early, late = await take(memory_store, 2)

    def add(held: HeldJob, text: str) -> None:
        held.add(Token(text, (1,)))
        publisher.send(held)

    async def sent(held: HeldJob) -> None:
        await wait_until(lambda: not held.has_unsent)

    add(early, "a")
    await sent(early)
    add(early, "b")  # none of its kind has been sent yet
    await sent(early)
    calls = faults.count("append")
    for text in "cde":
        add(early, text)
        await asyncio.sleep(0)
    add(late, "a")
    await sent(late)
    assert early.has_unsent
    await sent(early)
    assert faults.count("append") == calls + 2
    await end_task(running)


async def test_a_failed_call_is_made_again_with_all_that_came_up_since(
    memory_store: MemoryStore, faults: Faults, publisher: Publisher
) -> None:
    [held] = await take(memory_store, 1)
    faults.refuse("append", 2)
    for text in "abc":
        held.add(Token(text, (1,)))
        publisher.send(held)
        await asyncio.sleep(0)
    await wait_until(lambda: not held.has_unsent)
    lines = await memory_store.read(held.lease.channel_id, after=1, limit=10)
    assert len(lines) == 3
    assert faults.count("append") >= 3


async def test_a_log_that_came_back_short_is_filled_again(
    memory_store: MemoryStore, publisher: Publisher
) -> None:
    [held] = await take(memory_store, 1)
    for text in "abcd":
        held.add(Token(text, (1,)))
    publisher.send(held)
    await wait_until(lambda: not held.has_unsent)
    channel_id = held.lease.channel_id
    before = await memory_store.read(channel_id, after=0, limit=10)
    del (await _log(memory_store, channel_id))[3:]
    held.heed(Verdict(held=True, tail=3))
    assert held.has_unsent
    publisher.send(held)
    await wait_until(lambda: not held.has_unsent)
    assert await memory_store.read(channel_id, after=0, limit=10) == before


async def test_a_log_that_comes_back_short_is_filled_by_the_next_call(
    memory_store: MemoryStore, publisher: Publisher
) -> None:
    [held] = await take(memory_store, 1)

    async def send(text: str) -> None:
        held.add(Token(text, (1,)))
        publisher.send(held)
        await wait_until(lambda: not held.has_unsent)

    for text in "abc":
        await send(text)
    channel_id = held.lease.channel_id
    before = await memory_store.read(channel_id, after=0, limit=10)
    del (await _log(memory_store, channel_id))[2:]
    await send("d")
    assert (await memory_store.read(channel_id, after=0, limit=10))[:-1] == before


async def _log(store: MemoryStore, channel_id: str) -> list[bytes]:
    _, record = store._of(channel_id)  # what no port can do: lose events
    assert record is not None
    return record.log
