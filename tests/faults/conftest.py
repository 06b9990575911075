"""Stacks of real processes, to be hurt."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import aiohttp
import pytest

from relais_testing.plain_logs import use_plain_logs
from relais_testing.process_stack import (
    MORTAL,
    Starter,
    VllmStarter,
    make_starter,
    make_vllm_starter,
)
from relais_testing.unclosed_writers import let_writers_be_collected
from relais_testing.valkey import ValkeyServer
from relais_testing.waiting import LIVENESS_S


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    let_writers_be_collected(items, Path(__file__).parent)


@pytest.fixture(autouse=True)
def plain_logs() -> None:
    use_plain_logs()


@pytest.fixture
def redis(make_redis_server: Callable[..., ValkeyServer]) -> ValkeyServer:
    """A server of this test's own."""
    return make_redis_server()


@pytest.fixture
def start(redis: ValkeyServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Starter]:
    """Starts services on `redis`."""
    with ExitStack() as stack:
        yield make_starter(stack, redis, tmp_path_factory.mktemp("logs"), **MORTAL)


@pytest.fixture
def start_vllm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VllmStarter]:
    """Starts `vllm serve`."""
    with ExitStack() as stack:
        yield make_vllm_starter(stack, tmp_path_factory.mktemp("vllm"))


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=LIVENESS_S)) as session:
        yield session
