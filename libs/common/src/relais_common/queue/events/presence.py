"""`Presence` over Redis: a subscription on which nothing is ever published.

A process that stalls, or whose machine is frozen, keeps its connections; the system closes those of a dead process.
Nothing is published here that could pile up, so Redis never closes the connection.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from functools import partial
from typing import Any, cast

from redis.asyncio import Redis

from relais_common.jobs.errors import StoreUnavailable
from relais_common.queue import keys
from relais_common.queue.client.clients import Clients
from relais_common.queue.client.connection import CONFIRM_TIMEOUT_S, store_errors
from relais_common.queue.client.link import Link, opened
from relais_common.queue.client.packing import pack
from relais_common.runtime.lifecycle import first_failure, lived_timeout

CHECK_S = 5.0
"""Interval of checks that the connection is alive and leads to the model's node."""


class RedisPresence:
    """One connection per model: `PUBSUB NUMSUB` counts the subscribers of one node, the one with the model's keys."""

    def __init__(self, clients: Clients) -> None:
        self._clients = clients

    @asynccontextmanager
    async def present(
        self, model: str, watcher_id: str
    ) -> AsyncIterator[Callable[[], Awaitable[None]]]:
        name = keys.presence(model, watcher_id)
        async with AsyncExitStack() as stack:
            with store_errors():
                redis = await stack.enter_async_context(self._clients.of(name))
                link = cast("Link", redis.connection_pool.make_connection())  # type: ignore[no-untyped-call]
                await stack.enter_async_context(opened(link))
                answers = await stack.enter_async_context(aclosing(link.receive()))
                await link.send_pieces(pack(["SUBSCRIBE", name]))
                async with lived_timeout(CONFIRM_TIMEOUT_S):
                    _raise_errors(await anext(answers))
            yield partial(self._stay, link, answers, redis, name)

    async def _stay(
        self, link: Link, answers: AsyncGenerator[list[Any]], redis: Redis, name: str
    ) -> None:
        heard = asyncio.Event()

        async def read() -> None:
            async for batch in answers:
                _raise_errors(batch)
                heard.set()

        async def check() -> None:
            while True:
                await asyncio.sleep(CHECK_S)
                heard.clear()
                await link.send_pieces(pack(["PING"]))
                async with asyncio.timeout(CHECK_S), self._clients.of(name) as now:
                    if now is not redis:
                        raise StoreUnavailable("another node has this model now", retry_after_s=1)
                    await heard.wait()

        with store_errors():
            await first_failure(read(), check())


def _raise_errors(answers: list[Any]) -> None:
    for answer in answers:
        if isinstance(answer, Exception):
            raise answer
