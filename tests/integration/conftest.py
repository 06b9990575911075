"""A stack of orchestrators and workers over the real server."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import openai
import pytest

from relais_testing.mongo import MongoServer
from relais_testing.plain_logs import use_plain_logs
from relais_testing.stack import Front, Stack
from relais_testing.unclosed_writers import let_writers_be_collected
from relais_testing.waiting import LIVENESS_S
from relais_testing.worker import Worker


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    let_writers_be_collected(items, Path(__file__).parent)


@pytest.fixture(autouse=True)
def plain_logs() -> None:
    use_plain_logs()


@pytest.fixture(scope="session")
def mongo_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MongoServer]:
    """To stop or kill one, a test starts its own."""
    with MongoServer(tmp_path_factory.mktemp("mongo")) as server:
        yield server


@pytest.fixture
async def stack(redis_url: str) -> AsyncIterator[Stack]:
    stack = await Stack.open(redis_url)
    yield stack
    await stack.close()


@pytest.fixture
async def front(stack: Stack) -> Front:
    """One orchestrator."""
    return await stack.front()


@pytest.fixture
async def client(front: Front) -> AsyncIterator[openai.AsyncOpenAI]:
    """The official client of that orchestrator; it does not try again."""
    async with openai.AsyncOpenAI(
        base_url=f"{front.url}/v1", api_key="any", max_retries=0, timeout=LIVENESS_S
    ) as client:
        yield client


@pytest.fixture
async def worker(stack: Stack) -> Worker:
    """One worker, as fast as the event loop turns."""
    return await stack.worker()
