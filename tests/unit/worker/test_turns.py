"""A thread that keys share: whose slice is next, and what becomes of those that are given up."""

from __future__ import annotations

import asyncio
import select
import sys
import threading
import time
from collections.abc import AsyncIterator
from functools import partial

import pytest

from relais_common.worker.turns import Turns, switch_threads_often
from relais_testing.waiting import LIVENESS_S, wait_until


class Thread:
    """Turns whose slices are written down; `gate` holds the one that runs."""

    def __init__(self) -> None:
        self.turns = Turns("test")
        self.gate = threading.Event()
        self.ran: list[str] = []

    async def run(self, key_id: str, name: str) -> None:
        await self.turns.run(key_id, lambda: self._work(name))

    def _work(self, name: str) -> None:
        self.ran.append(name)
        assert self.gate.wait(LIVENESS_S)


@pytest.fixture
async def thread() -> AsyncIterator[Thread]:
    thread = Thread()
    yield thread
    thread.gate.set()
    await asyncio.to_thread(thread.turns.close)


async def begin(thread: Thread, *slices: tuple[str, str]) -> list[asyncio.Task[None]]:
    """The first is at work when this returns."""
    tasks = [asyncio.create_task(thread.run(*one)) for one in slices]
    await wait_until(lambda: thread.ran)
    return tasks


async def test_keys_take_turns_however_much_each_has_waiting(thread: Thread) -> None:
    slices = [("a", "a1"), ("a", "a2"), ("a", "a3"), ("b", "b1"), ("c", "c1"), ("b", "b2")]
    tasks = await begin(thread, *slices)
    thread.gate.set()
    await asyncio.gather(*tasks)
    assert thread.ran == ["a1", "a2", "b1", "c1", "a3", "b2"]


async def test_small_work_waits_for_one_slice_of_each_other_key(thread: Thread) -> None:
    async def in_slices(name: str) -> None:
        for number in range(20):
            await thread.run("large", f"{name}.{number}")

    large = [asyncio.create_task(in_slices(str(one))) for one in range(16)]
    await wait_until(lambda: thread.ran)
    small = asyncio.create_task(thread.run("small", "small"))
    await asyncio.sleep(0)
    thread.gate.set()
    await asyncio.gather(small, *large)
    assert thread.ran.index("small") <= 2
    assert len(thread.ran) == 16 * 20 + 1


async def test_what_is_cancelled_before_its_turn_is_never_called(thread: Thread) -> None:
    first, second, third = await begin(thread, ("a", "a1"), ("a", "a2"), ("a", "a3"))
    second.cancel()
    await asyncio.wait({second})
    thread.gate.set()
    await asyncio.gather(first, third)
    assert thread.ran == ["a1", "a3"]


async def test_what_is_cancelled_at_work_keeps_the_thread_until_it_is_done(thread: Thread) -> None:
    first, second = await begin(thread, ("a", "a1"), ("b", "b1"))
    first.cancel()
    await asyncio.wait({first})
    assert thread.ran == ["a1"]
    thread.gate.set()
    await second
    assert thread.ran == ["a1", "b1"]


async def test_error_goes_to_its_caller_alone(thread: Thread) -> None:
    thread.gate.set()
    with pytest.raises(ZeroDivisionError):
        await thread.turns.run("a", lambda: 1 / 0)
    assert await thread.turns.run("a", lambda: 1) == 1


async def test_the_event_loop_gets_many_turns_while_a_slice_computes() -> None:
    before_s = sys.getswitchinterval()
    switch_threads_often()
    turns = Turns("test")
    try:
        computing = asyncio.create_task(turns.run("a", partial(_burn, 0.5)))
        looks = 0
        while not computing.done():
            # As where the loop waits for sockets: lets go of the interpreter, and wants it back at once.
            select.select((), (), (), 0)
            await asyncio.sleep(0)
            looks += 1
        # With Python's own interval: one in 5 ms.
        assert looks > 0.5 / 0.005 * 2
    finally:
        sys.setswitchinterval(before_s)
        turns.close()


def _burn(seconds: float) -> None:
    end_s = time.thread_time() + seconds
    while time.thread_time() < end_s:
        pass
