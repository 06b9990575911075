"""Requests that end with their readers are said to have one, as long as they do."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from relais_common.jobs.errors import StoreUnavailable
from relais_orchestrator.streams import watcher as watcher_module
from relais_orchestrator.streams.watcher import Watcher
from relais_testing.faults import Faults
from relais_testing.memory import MemoryStore
from relais_testing.owned import end_task
from relais_testing.plain_logs import use_plain_logs
from relais_testing.waiting import wait_until

LEASE_S = 0.09
CHANNEL, OTHER = "m." + "a" * 22, "m." + "b" * 22


@pytest.fixture(autouse=True)
def plain_logs() -> None:
    use_plain_logs()


@pytest.fixture
def faults() -> Faults:
    return Faults()


@pytest.fixture
async def watcher(memory_store: MemoryStore, faults: Faults) -> AsyncIterator[Watcher]:
    watcher = Watcher(faults.around(memory_store), lease_s=LEASE_S)
    task = asyncio.create_task(watcher.run())
    yield watcher
    await end_task(task)


def watched(faults: Faults) -> list[str]:
    return [args[0] for name, args, _ in faults.calls if name == "watch"]


async def test_channel_is_watched_at_once_and_again_and_again(
    watcher: Watcher, faults: Faults
) -> None:
    async with watcher.watching(CHANNEL):
        assert watched(faults) == [CHANNEL]
        await wait_until(lambda: len(watched(faults)) == 4)
    count = len(watched(faults))
    await asyncio.sleep(LEASE_S)
    assert len(watched(faults)) == count


async def test_channel_whose_acceptance_told_the_store_is_watched_again_and_again(
    watcher: Watcher, faults: Faults
) -> None:
    async with watcher.watching(CHANNEL, is_told=True):
        assert watched(faults) == []
        await wait_until(lambda: watched(faults) == [CHANNEL, CHANNEL])


async def test_channel_with_two_readers_is_watched_until_the_last_one_leaves(
    watcher: Watcher, faults: Faults
) -> None:
    async with watcher.watching(CHANNEL):
        async with watcher.watching(CHANNEL):
            pass
        faults.calls.clear()
        await wait_until(lambda: watched(faults) == [CHANNEL, CHANNEL])


async def test_store_that_is_away_at_the_start_is_told_to_the_caller(
    watcher: Watcher, faults: Faults
) -> None:
    faults.away = True
    with pytest.raises(StoreUnavailable):
        async with watcher.watching(CHANNEL):
            pass


async def test_every_channel_is_watched_again_soon_after_an_outage(
    memory_store: MemoryStore, faults: Faults, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watcher_module, "RETRY_S", 0.01)
    watcher = Watcher(faults.around(memory_store), lease_s=1.5)
    task = asyncio.create_task(watcher.run())
    async with watcher.watching(CHANNEL), watcher.watching(OTHER):
        faults.away = True
        faults.calls.clear()
        # The first failure comes a third of the lease later; those after it come at once.
        await wait_until(lambda: len(watched(faults)) > 3)
        faults.away = False
        faults.calls.clear()
        await wait_until(lambda: watched(faults) == [CHANNEL, OTHER])
    await end_task(task)


async def test_channel_of_a_reader_that_left_is_unwatched_before_its_lease_is_over(
    watcher: Watcher, faults: Faults
) -> None:
    async with watcher.watching(CHANNEL), watcher.watching(OTHER):
        pass
    await wait_until(lambda: faults.count("unwatch") == 1)
    (batch,) = (args[0] for name, args, _ in faults.calls if name == "unwatch")
    assert sorted(batch) == [CHANNEL, OTHER]


async def test_channel_that_is_read_again_is_not_unwatched(
    watcher: Watcher, faults: Faults
) -> None:
    async with watcher.watching(CHANNEL):
        pass
    async with watcher.watching(CHANNEL):
        await wait_until(lambda: len(watched(faults)) > 3)
    assert faults.count("unwatch") == 0


async def test_client_that_asks_counts_as_a_reader_until_it_is_answered(
    watcher: Watcher, faults: Faults
) -> None:
    with watcher.accepting(CHANNEL):
        await wait_until(lambda: len(watched(faults)) > 1)
    await wait_until(lambda: faults.count("unwatch") == 1)


async def test_readers_that_left_during_an_outage_are_unwatched_after_it(
    memory_store: MemoryStore, faults: Faults, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watcher_module, "RETRY_S", 0.01)
    watcher = Watcher(faults.around(memory_store), lease_s=0.3)
    task = asyncio.create_task(watcher.run())
    async with watcher.watching(CHANNEL):
        faults.away = True
    await wait_until(lambda: faults.count("unwatch") > 1)
    faults.away = False
    count = faults.count("unwatch")
    await wait_until(lambda: faults.count("unwatch") == count + 1)
    await end_task(task)
