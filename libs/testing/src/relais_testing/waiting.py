"""Waits for conditions instead of sleeping."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar, overload

T = TypeVar("T")

LIVENESS_S = 300.0
"""How long a test waits for something that must happen: long enough for any machine."""


async def returns_at_once(waiting: Awaitable[object]) -> bool:
    """Await this, and return whether it ended well before `LIVENESS_S`, which it waits when nothing happens."""
    began_s = time.monotonic()
    await waiting
    return time.monotonic() - began_s < LIVENESS_S / 2


def block_until(
    condition: Callable[[], T], *, every_s: float = 0.01, failure: Callable[[], str] = str
) -> T:
    """Call `condition` until it gives something true; return that. For code outside an event loop.

    Args:
        failure: says what there is to see when it stays false.
    """
    end_s = time.monotonic() + LIVENESS_S
    while not (value := condition()):
        assert time.monotonic() < end_s, f"not true within {LIVENESS_S} s: {failure()}"
        time.sleep(every_s)
    return value


@overload
async def wait_until(
    condition: Callable[[], Awaitable[T]], timeout_s: float = LIVENESS_S, *, every_s: float = 0.01
) -> T: ...


@overload
async def wait_until(
    condition: Callable[[], T], timeout_s: float = LIVENESS_S, *, every_s: float = 0.01
) -> T: ...


async def wait_until(
    condition: Callable[[], T | Awaitable[T]],
    timeout_s: float = LIVENESS_S,
    *,
    every_s: float = 0.01,
) -> T:
    """Call `condition`, which may be async, until it gives something true; return that.

    Raises:
        AssertionError: it stayed false for `timeout_s` seconds.
    """
    loop = asyncio.get_running_loop()
    end_s = loop.time() + timeout_s
    while True:
        outcome = condition()
        value: T = await outcome if inspect.isawaitable(outcome) else outcome
        if value:
            return value
        if loop.time() >= end_s:
            raise AssertionError(f"not true within {timeout_s} s; last value: {value!r}")
        await asyncio.sleep(every_s)
