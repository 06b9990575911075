"""Lets clients begin their requests in turns: one that sends without pause delays each other client by a turn."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from relais_common.jobs.errors import Unauthorized
from relais_common.runtime.health import PROBES
from relais_orchestrator.api.callers import caller_of

TURN_S = 0.002
"""How long requests may take to begin in one turn of the event loop; one may always begin."""


class Door:
    """Lets a request begin at once if none did in this turn of the event loop, else one client's after the other's.

    What a request takes up to its first wait is measured, so that as many begin in a turn as fit into `TURN_S`.
    """

    def __init__(self) -> None:
        # In order of their turns.
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}
        self._is_ajar = False
        self._cost_s = TURN_S
        self._began_s = 0.0
        self._begun = 0

    async def turn(self, client: str) -> None:
        """Wait until this client's next request may begin."""
        loop = asyncio.get_running_loop()
        if not self._is_ajar:
            self._is_ajar = True
            loop.call_soon(self._open)
            return
        mine: asyncio.Future[None] = loop.create_future()
        self._waiting.setdefault(client, deque()).append(mine)
        await mine

    def _open(self) -> None:
        if self._begun:
            # They ran just before this.
            took_s = (time.perf_counter() - self._began_s) / self._begun
            self._cost_s = (self._cost_s + took_s) / 2
        self._begun = 0
        if not self._waiting:
            self._is_ajar = False
            return
        loop = asyncio.get_running_loop()
        loop.call_soon(self._look_at_the_clock)
        most = TURN_S / self._cost_s
        while self._waiting and (not self._begun or self._begun < most):
            self._admit()
        loop.call_soon(self._open)

    def _look_at_the_clock(self) -> None:
        self._began_s = time.perf_counter()

    def _admit(self) -> None:
        client, waiting = next(iter(self._waiting.items()))
        del self._waiting[client]
        one = waiting.popleft()
        if waiting:
            self._waiting[client] = waiting
        if not one.done():
            one.set_result(None)
            self._begun += 1


def turns(observe_wait: Callable[[float], object]) -> Middleware:
    """Return middleware that lets requests begin in turns; `observe_wait` gets the seconds that each waited."""
    door = Door()

    @web.middleware
    async def begin_in_turn(request: web.Request, handler: Handler) -> web.StreamResponse:
        came_s = time.perf_counter()
        await door.turn(_client_of(request))
        observe_wait(time.perf_counter() - came_s)
        return await handler(request)

    return begin_in_turn


def _client_of(request: web.Request) -> str:
    """Return whose turn a request takes: its key's, or its address's. Probes are no client's."""
    if request.path in PROBES:
        return f"probe {request.remote}"
    try:
        return f"key {caller_of(request).key_id}"
    except Unauthorized:
        return f"address {request.remote}"
