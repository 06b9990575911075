"""Contexts that live in a task of their own, so that a test may end them in any order, or abruptly."""

from __future__ import annotations

import asyncio
from contextlib import AbstractAsyncContextManager
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Owned(Generic[T]):
    """An async context manager, entered and left by one task."""

    def __init__(self, context: AbstractAsyncContextManager[T]) -> None:
        self._context = context
        self._entered: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._leave = asyncio.Event()
        self._task = asyncio.create_task(self._live())

    async def enter(self) -> T:
        """Open the context and return its value."""
        both: set[asyncio.Future[Any]] = {self._entered, self._task}
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        if self._task.done():
            self._task.result()
        return self._entered.result()

    async def leave(self) -> None:
        """Close it and raise its error; may be called again."""
        self._leave.set()
        await self._task

    async def _live(self) -> None:
        async with self._context as value:
            self._entered.set_result(value)
            await self._leave.wait()


async def end_task(task: asyncio.Task[Any]) -> None:
    """Cancel a task and wait for its end."""
    task.cancel()
    await asyncio.wait({task})
    if not task.cancelled():
        task.exception()  # looked at: not a surprise for the loop
