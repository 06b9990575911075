"""How an orchestrator comes to a stop: new work is refused, streams end where they can be resumed."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from relais_common.ports import LiveBus


class Drain:
    """Two moments: `started`, when resumable streams end, and `over`, when the others must too."""

    def __init__(self, live: LiveBus) -> None:
        self._live = live
        self._open = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self.started = False
        self.over = False

    @contextmanager
    def request(self) -> Iterator[None]:
        """Counts a request that a drain waits for."""
        self._open += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._open -= 1
            if self._open == 0:
                self._idle.set()

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
                await self._idle.wait()
        except TimeoutError:
            return False
        return True
