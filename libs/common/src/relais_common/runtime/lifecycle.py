"""Owns tasks, and stops on signals."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

BEATS = 10
"""Into how many parts a time is cut that counts only as far as this process lives through it."""


async def cancel_and_wait(task: asyncio.Task[Any]) -> None:
    """Cancel a task and wait for its end. Raises the task's error, if any; our own cancellation is not lost."""
    task.cancel()
    await asyncio.wait({task})
    error = None if task.cancelled() else task.exception()
    # In a `finally`, the error would replace the cancellation that led there.
    caller = asyncio.current_task()
    if error is not None and not (caller is not None and caller.cancelling()):
        raise error


async def first_failure(*work: Coroutine[Any, Any, None]) -> None:
    """Run loops together until one of them fails; end the others, and raise its error."""
    tasks = [asyncio.create_task(item) for item in work]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        # Errors that the others raise on their way out follow from the first failure.
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in tasks:
        if task in done:
            task.result()


@asynccontextmanager
async def background(*work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Run loops during the context; if one fails, the context ends with its error."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(item) for item in work]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()


@asynccontextmanager
async def lived_timeout(seconds: float) -> AsyncIterator[None]:
    """`asyncio.timeout` over time that this process lives through.

    Where it stands still (a paused machine, a frozen container), whatever it waits for often does, too, and what has
    come meanwhile is still unread. So a standstill of any length counts for a tenth of the time at most.
    """
    loop = asyncio.get_running_loop()
    timer: asyncio.TimerHandle | None = None

    def live(beats: int) -> None:
        nonlocal timer
        if beats:
            timer = loop.call_later(seconds / BEATS, live, beats - 1)
        else:
            limit.reschedule(loop.time())

    async with asyncio.timeout(None) as limit:
        live(BEATS)
        try:
            yield
        finally:
            assert timer is not None
            timer.cancel()


async def pause(stop: asyncio.Event, seconds: float) -> bool:
    """Wait for `seconds` or until the stop event is set. Returns True if it was set."""
    try:
        async with asyncio.timeout(seconds):
            await stop.wait()
    except TimeoutError:
        return False
    return True


@contextmanager
def stop_on_signals(stop: asyncio.Event) -> Iterator[None]:
    """Set the event on SIGTERM or SIGINT during the context."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    try:
        yield
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
