"""Requests begin in turns: those of one client after those of another, and few in one turn of the event loop."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress

from relais_orchestrator.api.door import Door

COST_S = 0.005


def _burn(seconds: float) -> None:
    end_s = time.thread_time() + seconds
    while time.thread_time() < end_s:
        pass


async def test_a_lone_request_begins_at_once() -> None:
    door = Door()
    turn = door.turn("a")
    with suppress(StopIteration):
        turn.send(None)
        raise AssertionError("it waited")


async def test_a_client_with_one_request_waits_for_one_of_each_other_client() -> None:
    door, begun = Door(), list[str]()

    async def begin(client: str) -> None:
        await door.turn(client)
        begun.append(client)

    async with asyncio.TaskGroup() as group:
        for _ in range(500):
            group.create_task(begin("flood"))
            group.create_task(begin("another"))
        await asyncio.sleep(0)
        before = len(begun)
        group.create_task(begin("victim"))
    assert begun[before:].index("victim") <= 3 * 2
    assert begun.count("flood") == begun.count("another") == 500


async def test_in_one_turn_of_the_event_loop_no_more_begin_than_fit_into_it() -> None:
    door = Door()
    turns, most, now = 0, 0, 0

    async def begin() -> None:
        nonlocal now
        await door.turn("flood")
        now += 1
        _burn(COST_S)

    begun = [asyncio.create_task(begin()) for _ in range(40)]
    while not all(task.done() for task in begun):
        await asyncio.sleep(0)
        turns += 1
        most, now = max(most, now), 0
    # The first ones are not measured yet.
    assert most <= 2
    assert turns >= 30


async def test_cheap_requests_begin_together() -> None:
    door = Door()
    begun = [asyncio.create_task(door.turn("flood")) for _ in range(2000)]
    turns = 0
    while not all(task.done() for task in begun):
        await asyncio.sleep(0)
        turns += 1
    assert turns < 1000


async def test_those_that_left_take_no_turn() -> None:
    door = Door()
    begun = [asyncio.create_task(door.turn("a")) for _ in range(10)]
    await asyncio.sleep(0)
    for task in begun[1:9]:
        task.cancel()
    await asyncio.wait(begun)
    assert [task.cancelled() for task in begun] == [False, *[True] * 8, False]
    await door.turn("b")
