"""Stacks of real processes, to be hurt."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack

import aiohttp
import pytest

from support.process_stack import Starter, make_starter
from support.valkey import ValkeyServer


@pytest.fixture
def start(
    make_redis_server: Callable[..., ValkeyServer], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Starter]:
    """Starts services on a Redis of this test's own."""
    with ExitStack() as stack:
        yield make_starter(stack, make_redis_server(), tmp_path_factory.mktemp("logs"))


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=120)) as session:
        yield session
