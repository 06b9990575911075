"""Runs work in a thread, slice by slice, with keys in rotation."""

from __future__ import annotations

import asyncio
import sys
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

T = TypeVar("T")

SWITCH_S = 0.0005
"""How long a thread that computes may keep the interpreter from the event loop, each time that the loop wants it back
after a look at its sockets. Python's own is ten times that, and a token needs several looks."""


def switch_threads_often() -> None:
    sys.setswitchinterval(SWITCH_S)


@dataclass(frozen=True, slots=True)
class _Slice:
    work: Callable[[], Any]
    done: asyncio.Future[Any]


class Turns:
    """One thread that many keys share. Each slice goes to the key that was served longest ago.

    A caller cuts its work into slices and awaits them one after the other, so a small piece of work waits for at most
    one slice of each other key.

    Args:
        name: name of the thread.
    """

    def __init__(self, name: str) -> None:
        self._thread = ThreadPoolExecutor(1, name)
        # In order of their turns.
        self._waiting: dict[str, deque[_Slice]] = {}
        self._running = False

    async def run(self, key_id: str, work: Callable[[], T]) -> T:
        """Call the function in the thread at this key's turn; raises what it raises.

        If cancelled before that, it is never called.
        """
        done: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(key_id, deque()).append(_Slice(work, done))
        self._begin_next()
        return await done

    def _begin_next(self) -> None:
        while self._waiting and not self._running:
            key_id, waiting = next(iter(self._waiting.items()))
            del self._waiting[key_id]
            one = waiting.popleft()
            if waiting:
                self._waiting[key_id] = waiting
            if one.done.done():
                continue
            self._running = True
            loop = asyncio.get_running_loop()
            self._thread.submit(one.work).add_done_callback(partial(self._report, loop, one))

    def _report(self, loop: asyncio.AbstractEventLoop, one: _Slice, result: Future[Any]) -> None:
        # A closed loop has no waiters left.
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(self._end, one, result)

    def _end(self, one: _Slice, result: Future[Any]) -> None:
        self._running = False
        if not one.done.done():
            error = result.exception()
            if error is None:
                one.done.set_result(result.result())
            else:
                one.done.set_exception(error)
        self._begin_next()

    def close(self) -> None:
        """Wait for the running slice; drop the others."""
        self._waiting.clear()
        self._thread.shutdown(wait=True, cancel_futures=True)
