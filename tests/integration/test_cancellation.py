"""A task that is cancelled while it talks to Redis ends, at whatever moment the cancellation comes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from relais_common.jobs.errors import StoreUnavailable
from relais_common.queue.redis_store import RedisSettings, RedisStore, open_store
from relais_common.runtime.lifecycle import cancel_and_wait
from relais_testing.builders import MODEL
from relais_testing.waiting import LIVENESS_S

MOMENTS = range(60)


@pytest.fixture
async def store(redis_url: str) -> AsyncIterator[RedisStore]:
    async with open_store(RedisSettings(redis_url)) as store:
        await store.ping()
        yield store


async def ask_for_ever(store: RedisStore) -> None:
    while True:
        await store.ping()


async def listen_for_ever(store: RedisStore) -> None:
    while True:
        async with store.source.stop_requests(MODEL) as channel_ids:
            async for _ in channel_ids:
                pass


@pytest.mark.parametrize("loop", [ask_for_ever, listen_for_ever])
async def test_loop_over_redis_ends_whenever_it_is_cancelled(
    store: RedisStore, loop: object
) -> None:
    assert callable(loop)
    for turns in MOMENTS:
        task = asyncio.create_task(loop(store))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        done, _ = await asyncio.wait({task}, timeout=LIVENESS_S)
        assert done, f"goes on after a cancellation {turns} turns after its start"
        assert task.cancelled()
    await store.ping()  # no connection was left with an answer that is not its own


async def test_cancellation_is_not_lost_to_the_error_of_a_task_that_is_ended_on_the_way_out() -> (
    None
):
    async def fail() -> None:
        raise StoreUnavailable("away")

    async def work() -> None:
        helper = asyncio.create_task(fail())
        try:
            await asyncio.Event().wait()
        finally:
            await cancel_and_wait(helper)

    task = asyncio.create_task(work())
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait({task})
    assert task.cancelled()
