"""How long a drain waits, and for whom."""

from __future__ import annotations

import asyncio

import pytest

from relais_common.jobs.channels import new_channel_id
from relais_orchestrator.streams.drain import Drain
from relais_testing.builders import MODEL
from relais_testing.memory import MemoryStore
from relais_testing.waiting import LIVENESS_S, returns_at_once, wait_until


@pytest.fixture
def drain(memory_store: MemoryStore) -> Drain:
    return Drain(memory_store)


async def test_idle_drain_is_over_at_once(drain: Drain) -> None:
    assert await returns_at_once(drain.run(LIVENESS_S))
    assert drain.started
    assert not drain.over


async def test_drain_waits_for_open_requests(drain: Drain) -> None:
    with drain.request():
        with drain.request():
            pass
        draining = asyncio.create_task(drain.run(LIVENESS_S))
        await asyncio.sleep(0.02)
        assert drain.started
        assert not draining.done()
    await draining
    assert not drain.over


async def test_requests_that_take_too_long_are_told_that_it_is_over(drain: Drain) -> None:
    with drain.request():
        await drain.run(0.02, cut_s=0.02)
    assert drain.over


async def test_drain_ends_as_soon_as_the_last_request_heeds_it(drain: Drain) -> None:
    with drain.request():
        draining = asyncio.create_task(drain.run(0.02, cut_s=LIVENESS_S))
        await wait_until(lambda: drain.over)
    assert await returns_at_once(draining)


async def test_start_and_end_of_a_drain_wake_every_reader(
    drain: Drain, memory_store: MemoryStore
) -> None:
    async with memory_store.subscribe(new_channel_id(MODEL)) as subscription:
        with drain.request():
            draining = asyncio.create_task(drain.run(0.02, cut_s=LIVENESS_S))
            assert await subscription.next(LIVENESS_S) is None
            assert (drain.started, drain.over) == (True, False)
            assert await subscription.next(LIVENESS_S) is None
            assert drain.over
        await draining


async def test_request_that_fails_counts_as_ended(drain: Drain) -> None:
    with pytest.raises(ValueError, match="x"), drain.request():
        raise ValueError("x")
    assert await returns_at_once(drain.run(LIVENESS_S))
