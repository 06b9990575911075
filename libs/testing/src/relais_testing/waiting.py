"""Waits for conditions instead of sleeping."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from typing import TypeVar, overload

T = TypeVar("T")

LIVENESS_S = 300.0
"""How long a test waits for something that must happen: long enough for any machine."""


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
