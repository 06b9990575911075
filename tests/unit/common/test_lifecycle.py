"""Tasks have owners, and cancellation is never lost."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import time

import pytest

from relais_common.runtime.lifecycle import (
    background,
    cancel_and_wait,
    lived_timeout,
    pause,
    stop_on_signals,
)
from relais_testing.waiting import LIVENESS_S, returns_at_once

# In a process of its own: the signal must not end that of the tests.
STOPPED = """
import asyncio, os, sys
from relais_common.runtime.lifecycle import stop_on_signals

async def main():
    stop = asyncio.Event()
    with stop_on_signals(stop):
        os.kill(os.getpid(), int(sys.argv[1]))
        await stop.wait()

asyncio.run(main())
"""


async def forever() -> None:
    await asyncio.Event().wait()


async def test_cancelled_task_has_ended_when_cancel_and_wait_returns() -> None:
    cleaned_up = False

    async def work() -> None:
        nonlocal cleaned_up
        try:
            await forever()
        finally:
            await asyncio.sleep(0)
            cleaned_up = True

    task = asyncio.create_task(work())
    await asyncio.sleep(0)
    await cancel_and_wait(task)
    assert task.cancelled()
    assert cleaned_up


async def test_cancel_and_wait_on_a_finished_task_returns() -> None:
    task = asyncio.create_task(asyncio.sleep(0))
    await task
    await cancel_and_wait(task)


async def test_error_of_the_task_is_raised() -> None:
    async def work() -> None:
        try:
            await forever()
        finally:
            raise ValueError("while cleaning up")

    task = asyncio.create_task(work())
    await asyncio.sleep(0)
    with pytest.raises(ValueError, match="cleaning up"):
        await cancel_and_wait(task)


async def test_cancellation_of_whoever_waits_is_not_swallowed() -> None:
    release = asyncio.Event()

    async def stubborn() -> None:
        try:
            await forever()
        finally:
            await release.wait()

    task = asyncio.create_task(stubborn())
    await asyncio.sleep(0)
    outer = asyncio.create_task(cancel_and_wait(task))
    await asyncio.sleep(0)
    outer.cancel()
    await asyncio.wait({outer})
    assert outer.cancelled()
    release.set()
    await asyncio.wait({task})


async def test_background_loops_end_with_the_context() -> None:
    ended: list[str] = []

    async def loop(name: str) -> None:
        try:
            await forever()
        finally:
            ended.append(name)

    async with background(loop("a"), loop("b")):
        await asyncio.sleep(0)
        assert ended == []
    assert sorted(ended) == ["a", "b"]


async def test_background_loop_that_fails_ends_the_context() -> None:
    async def fails() -> None:
        raise ValueError("the loop died")

    with pytest.raises(ExceptionGroup) as raised:
        async with background(fails()):
            await forever()
    assert raised.group_contains(ValueError, match="the loop died")


async def test_background_loop_that_fails_ends_its_siblings() -> None:
    sibling_ended = asyncio.Event()

    async def sibling() -> None:
        try:
            await forever()
        finally:
            sibling_ended.set()

    async def fails() -> None:
        await asyncio.sleep(0)
        raise ValueError("the loop died")

    with pytest.raises(ExceptionGroup):
        async with background(sibling(), fails()):
            await forever()
    assert sibling_ended.is_set()


async def test_error_of_the_body_ends_the_loops_and_comes_out() -> None:
    ended = asyncio.Event()

    async def loop() -> None:
        try:
            await forever()
        finally:
            ended.set()

    async def body() -> None:
        async with background(loop()):
            await asyncio.sleep(0)
            raise KeyError("body")

    with pytest.raises(ExceptionGroup) as raised:
        await body()
    assert raised.group_contains(KeyError)
    assert ended.is_set()


async def test_cancellation_of_the_body_is_not_swallowed_by_background() -> None:
    async def body() -> None:
        async with background(forever()):
            await forever()

    task = asyncio.create_task(body())
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait({task})
    assert task.cancelled()


async def test_pause_ends_at_its_time_or_at_the_stop() -> None:
    stop = asyncio.Event()
    assert await pause(stop, 0.001) is False
    waiting = asyncio.create_task(pause(stop, LIVENESS_S))
    await asyncio.sleep(0)
    stop.set()
    assert await returns_at_once(waiting)
    assert waiting.result() is True
    assert await pause(stop, LIVENESS_S) is True


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_sets_the_stop_event(number: signal.Signals) -> None:
    stopped = subprocess.run([sys.executable, "-c", STOPPED, str(int(number))], check=False)
    assert stopped.returncode == 0


async def test_signals_are_as_before_afterwards() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with stop_on_signals(asyncio.Event()):
        pass
    assert signal.getsignal(signal.SIGTERM) == before


async def test_lived_timeout_ends_what_lasts_too_long() -> None:
    with pytest.raises(TimeoutError):
        async with lived_timeout(0.05):
            await forever()


async def test_lived_timeout_leaves_alone_what_is_done_in_time() -> None:
    async with lived_timeout(0.05):
        pass
    await asyncio.sleep(0.1)


@pytest.mark.realtime  # a standstill is one of this very process, longer than the timeout
async def test_a_standstill_does_not_use_up_a_lived_timeout() -> None:
    came = asyncio.Event()
    async with lived_timeout(1):
        time.sleep(2)  # noqa: ASYNC251 # the standstill
        # Whoever answers stood still as well.
        asyncio.get_running_loop().call_later(0.01, came.set)
        await came.wait()
