"""The models of a worker: loaded at their first use, within a bound, and never evicted while in use."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from relais_common.jobs.errors import EngineFailed
from relais_embedding_worker.settings import read_settings
from relais_embedding_worker.shelf import Shelf, open_shelf
from relais_testing.encoders import WatchedEncoder, whole
from relais_testing.waiting import wait_until

BOUNDS = read_settings({}).bounds


class Loads:
    """Loads models of 10 bytes, and notes which."""

    def __init__(self) -> None:
        self.loaded: list[str] = []
        self.failing: set[str] = set()

    def __call__(self, name: str) -> WatchedEncoder:
        self.loaded.append(name)
        if name in self.failing:
            raise RuntimeError("there is no such model")
        encoder = WatchedEncoder()
        encoder.info = replace(encoder.info, weight_bytes=10)
        return encoder


@pytest.fixture
def loads() -> Loads:
    return Loads()


@asynccontextmanager
async def shelf_of(loads: Loads, max_bytes: int | None) -> AsyncIterator[Shelf]:
    bounds = replace(BOUNDS, max_model_bytes=max_bytes)
    async with asyncio.timeout(30), open_shelf(loads, bounds) as shelf:
        yield shelf


async def use(shelf: Shelf, name: str) -> None:
    async with shelf.lend(name) as loaded:
        tokens = whole(loaded.encoder, ["the town hall"])
        assert (await loaded.batches.encode("k", tokens)).shape == (1, 8)


def kept(shelf: Shelf) -> set[str]:
    return {name for name in "abc" if shelf.batches(name) is not None}


def are_kept(shelf: Shelf, names: str) -> Callable[[], bool]:
    return lambda: kept(shelf) == set(names)


async def test_a_model_is_loaded_once_at_its_first_use(loads: Loads) -> None:
    async with shelf_of(loads, None) as shelf:
        assert shelf.info("a") is None
        await asyncio.gather(*(use(shelf, name) for name in "aabab"))
        assert sorted(loads.loaded) == ["a", "b"]
        assert shelf.info("a") is not None


async def test_the_least_recently_used_makes_room(loads: Loads) -> None:
    async with shelf_of(loads, 20) as shelf:
        for name in "abac":
            await use(shelf, name)
        await wait_until(are_kept(shelf, "ac"))
        await use(shelf, "b")
        await wait_until(are_kept(shelf, "bc"))
        assert loads.loaded == ["a", "b", "c", "b"]


async def test_one_in_use_is_not_evicted_and_those_that_wait_are_not_overtaken(
    loads: Loads,
) -> None:
    async with shelf_of(loads, 10) as shelf:
        await use(shelf, "b")
        await use(shelf, "a")
        await wait_until(are_kept(shelf, "a"))
        async with shelf.lend("a"):
            waiting = asyncio.create_task(use(shelf, "b"))
            await wait_until(lambda: shelf._turn.locked())
            later = asyncio.create_task(use(shelf, "a"))
            await asyncio.sleep(0)
            assert kept(shelf) == {"a"}
        await waiting
        await later
        assert loads.loaded == ["b", "a", "b", "a"]


async def test_one_larger_than_the_bound_is_alone(loads: Loads) -> None:
    async with shelf_of(loads, 5) as shelf:
        for name in "aba":
            await use(shelf, name)
        await wait_until(are_kept(shelf, "a"))


async def test_a_failed_load_fails_its_requests_and_is_tried_again(loads: Loads) -> None:
    loads.failing = {"a"}
    async with shelf_of(loads, None) as shelf:
        with pytest.raises(EngineFailed, match="could not be loaded"):
            await use(shelf, "a")
        await use(shelf, "b")
        loads.failing = set()
        await use(shelf, "a")


async def test_a_cancelled_request_leaves_the_load_to_others(loads: Loads) -> None:
    async with shelf_of(loads, None) as shelf:
        first = asyncio.create_task(use(shelf, "a"))
        second = asyncio.create_task(use(shelf, "a"))
        await asyncio.sleep(0)
        first.cancel()
        await second
        assert loads.loaded == ["a"]
