"""How long a drain waits, and for whom."""

from __future__ import annotations

import asyncio

import pytest

from relais_common.jobs.channels import new_channel_id
from relais_orchestrator.streams.drain import Drain
from relais_testing.builders import MODEL
from relais_testing.memory import MemoryStore
from relais_testing.waiting import wait_until


@pytest.fixture
def drain(memory_store: MemoryStore) -> Drain:
    return Drain(memory_store)


async def test_idle_drain_is_over_at_once(drain: Drain) -> None:
    async with asyncio.timeout(1):
        await drain.run(60)
    assert drain.started
    assert not drain.over


async def test_drain_waits_for_open_requests(drain: Drain) -> None:
    async with asyncio.timeout(2):
        with drain.request():
            with drain.request():
                pass
            draining = asyncio.create_task(drain.run(60))
            await asyncio.sleep(0.02)
            assert drain.started
            assert not draining.done()
        await draining
    assert not drain.over


async def test_requests_that_take_too_long_are_told_that_it_is_over(drain: Drain) -> None:
    with drain.request():
        async with asyncio.timeout(2):
            await drain.run(0.02, cut_s=0.02)
    assert drain.over


async def test_drain_ends_as_soon_as_the_last_request_heeds_it(drain: Drain) -> None:
    with drain.request():
        draining = asyncio.create_task(drain.run(0.02, cut_s=60))
        await wait_until(lambda: drain.over)
    async with asyncio.timeout(2):
        await draining


async def test_start_and_end_of_a_drain_wake_every_reader(
    drain: Drain, memory_store: MemoryStore
) -> None:
    async with memory_store.subscribe(new_channel_id(MODEL)) as subscription, asyncio.timeout(2):
        with drain.request():
            draining = asyncio.create_task(drain.run(0.02, cut_s=60))
            assert await subscription.next(60) is None
            assert (drain.started, drain.over) == (True, False)
            assert await subscription.next(60) is None
            assert drain.over
        await draining


async def test_request_that_fails_counts_as_ended(drain: Drain) -> None:
    with pytest.raises(ValueError, match="x"), drain.request():
        raise ValueError("x")
    async with asyncio.timeout(1):
        await drain.run(60)
