"""Drains an orchestrator: refuses new work, and ends streams that can be resumed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractContextManager

from aiohttp import hdrs, web

from relais_common.queue.ports import LiveBus


class _OpenRequests:
    """Counts open requests. It is shared, because a context for each stream would cost 0.6 KB."""

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
    """The two phases of a drain: at `started` resumable streams end, at `over` all others must.

    Attributes:
        close_idle: closes the connections that carry no request. Whoever holds one opens its next elsewhere.
    """

    def __init__(self, live: LiveBus) -> None:
        self._live = live
        self._requests = _OpenRequests()
        self.started = False
        self.over = False
        self.close_idle: Callable[[], None] = _nothing

    def request(self) -> AbstractContextManager[None]:
        """Return a context that counts a request for which a drain waits."""
        return self._requests

    async def run(self, drain_s: float, cut_s: float = 2.0) -> None:
        """Wait for open requests up to `drain_s`, then make them end with an error within `cut_s`."""
        self.started = True
        self.close_idle()
        self._live.nudge()
        if await self._wait_idle(drain_s):
            return
        self.over = True
        self._live.nudge()
        await self._wait_idle(cut_s)

    async def stamp(self, _: web.Request, response: web.StreamResponse) -> None:
        """Let no connection outlive its response; for `Application.on_response_prepare`.

        A client that kept it would be refused by this process, again and again, while others would serve it.
        """
        if self.started:
            response.force_close()
            response.headers[hdrs.CONNECTION] = "close"

    async def _wait_idle(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                await self._requests.none.wait()
        except TimeoutError:
            return False
        return True


def _nothing() -> None:
    """Before there are connections."""
