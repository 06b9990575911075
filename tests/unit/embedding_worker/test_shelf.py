"""The models of a worker: loaded at their first use, within a bound, and never evicted while in use."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from relais_common.jobs.errors import EngineFailed
from relais_embedding_worker import shelf as shelves
from relais_embedding_worker.lent import LentHandler
from relais_embedding_worker.settings import read_settings
from relais_embedding_worker.shelf import Shelf, open_shelf
from relais_testing.encoders import WatchedEncoder, whole
from relais_testing.waiting import LIVENESS_S, wait_until

BOUNDS = read_settings({}).bounds


class Loads:
    """Loads models of 10 bytes, and notes which.

    Attributes:
        failing: models whose loads that begin now fail.
        gate: cleared, loads do not end.
    """

    def __init__(self) -> None:
        self.loaded: list[str] = []
        self.failing: set[str] = set()
        self.gate = threading.Event()
        self.gate.set()

    def __call__(self, name: str) -> WatchedEncoder:
        fails = name in self.failing
        self.loaded.append(name)
        assert self.gate.wait(LIVENESS_S)
        if fails:
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
    async with open_shelf(loads, bounds) as shelf:
        try:
            yield shelf
        finally:
            loads.gate.set()


async def use(shelf: Shelf, name: str) -> None:
    async with shelf.lend(name) as loaded:
        tokens = whole(loaded.encoder, ["the town hall"])
        assert (await loaded.batches.encode("k", tokens)).shape == (1, 8)


async def use_first(shelf: Shelf, names: str) -> None:
    """Use these, so that their sizes are known; only the last one stays."""
    for name in names:
        await use(shelf, name)
    await wait_until(lambda: kept(shelf) == {names[-1]} and not shelf.is_making_room)


def handler_for(shelf: Shelf, name: str) -> LentHandler:
    def make_handler(_: object) -> Any:
        raise AssertionError("it runs no job here")

    return LentHandler(shelf, name, make_handler, BOUNDS)


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
            await wait_until(lambda: shelf.is_making_room)
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


async def test_one_that_is_loaded_stays_whatever_was_loaded_and_evicted_before(
    loads: Loads,
) -> None:
    async with shelf_of(loads, 10) as shelf:
        await use_first(shelf, "ab")
        loads.gate.clear()
        first = asyncio.create_task(use(shelf, "a"))
        await wait_until(lambda: loads.loaded == ["a", "b", "a"])
        second = asyncio.create_task(use(shelf, "b"))
        await wait_until(lambda: shelf.is_making_room)
        loads.gate.set()
        await asyncio.gather(first, second)
        await wait_until(lambda: not shelf.is_making_room)
        await use(shelf, "b")
        assert loads.loaded == ["a", "b", "a", "b"]


async def evict_what_will_fail(
    shelf: Shelf, loads: Loads
) -> tuple[asyncio.Task[None], asyncio.Task[None]]:
    """Evict "a" while it is being loaded; the load will fail. Returns who asked and left, and who asks for "b"."""
    await use_first(shelf, "ab")
    loads.gate.clear()
    loads.failing = {"a"}
    cancelled = asyncio.create_task(use(shelf, "a"))
    await wait_until(lambda: loads.loaded == ["a", "b", "a"])
    cancelled.cancel()
    evicting = asyncio.create_task(use(shelf, "b"))
    await wait_until(lambda: "a" not in shelf._kept)
    return cancelled, evicting


async def test_one_whose_load_fails_after_its_eviction_harms_no_other(loads: Loads) -> None:
    async with shelf_of(loads, 10) as shelf:
        _, evicting = await evict_what_will_fail(shelf, loads)
        loads.gate.set()
        await evicting
        assert kept(shelf) == {"b"}


async def test_one_whose_load_fails_after_its_eviction_is_loaded_again(loads: Loads) -> None:
    async with shelf_of(loads, 10) as shelf:
        cancelled, evicting = await evict_what_will_fail(shelf, loads)
        evicting.cancel()
        await asyncio.wait({cancelled, evicting})
        loads.failing = set()
        again = asyncio.create_task(use(shelf, "a"))
        await wait_until(lambda: "a" in shelf._kept)
        loads.gate.set()
        await again
        assert kept(shelf) == {"a"}


async def test_no_further_jobs_are_taken_of_a_model_that_has_to_make_room(loads: Loads) -> None:
    async with shelf_of(loads, 10) as shelf:
        await use_first(shelf, "ba")
        handler = handler_for(shelf, "a")
        assert handler.room(1) > 1
        async with shelf.lend("a"):
            waiting = asyncio.create_task(use(shelf, "b"))
            await wait_until(lambda: shelf.is_making_room)
            assert handler.room(1) == 0
        await waiting
        assert (handler.room(0), handler.room(1)) == (1, 0)


async def test_no_jobs_are_taken_for_a_while_of_a_model_that_cannot_be_loaded(
    loads: Loads, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads.failing = {"a"}
    async with shelf_of(loads, None) as shelf:
        handler = handler_for(shelf, "a")
        assert handler.room(0) == 1
        with pytest.raises(EngineFailed):
            await use(shelf, "a")
        assert handler.room(0) == 0
        assert handler_for(shelf, "b").room(0) == 1
        monkeypatch.setattr(shelves, "RETRY_S", 0.0)
        assert handler.room(0) == 1
        monkeypatch.undo()
        loads.failing = set()
        await use(shelf, "a")
        assert handler.room(0) > 1
