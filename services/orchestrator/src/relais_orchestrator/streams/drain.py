"""How an orchestrator comes to a stop: new work is refused, streams end where they can be resumed."""

from __future__ import annotations

import asyncio
from contextlib import AbstractContextManager

from relais_common.queue.ports import LiveBus


class _OpenRequests:
    """Counts who is inside. One for all: a context of its own would cost each open stream 0.6 KB."""

    def __init__(self) -> None:
        self._count = 0
        self.none = asyncio.Event()
        self.none.set()

    def __enter__(self) -> None:
        self._count += 1
        self.none.clear()

    def __exit__(self, *_: object) -> None:
        self._count -= 1
        if self._count == 0:
            self.none.set()


class Drain:
    """Two moments: `started`, when resumable streams end, and `over`, when the others must too."""

    def __init__(self, live: LiveBus) -> None:
        self._live = live
        self._requests = _OpenRequests()
        self.started = False
        self.over = False

    def request(self) -> AbstractContextManager[None]:
        """Counts a request that a drain waits for."""
        return self._requests

    async def run(self, drain_s: float, cut_s: float = 2.0) -> None:
        """Wait for open requests up to `drain_s`, then have them end with an error within `cut_s`."""
        self.started = True
        self._live.nudge()
        if await self._wait_idle(drain_s):
            return
        self.over = True
        self._live.nudge()
        await self._wait_idle(cut_s)

    async def _wait_idle(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                await self._requests.none.wait()
        except TimeoutError:
            return False
        return True
