"""Stacks of real processes, to be hurt."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack

import aiohttp
import pytest

from support.process_stack import Starter, make_starter
from support.valkey import ValkeyServer


@pytest.fixture
def redis(make_redis_server: Callable[..., ValkeyServer]) -> ValkeyServer:
    """A server of this test's own."""
    return make_redis_server()


@pytest.fixture
def start(redis: ValkeyServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Starter]:
    """Starts services on `redis`."""
    with ExitStack() as stack:
        yield make_starter(stack, redis, tmp_path_factory.mktemp("logs"))


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=120)) as session:
        yield session
