"""A stack of orchestrators and workers over the real server."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from support.plain_logs import use_plain_logs
from support.stack import Front, Stack
from support.worker import Worker


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # The Redis client leaves the closing of a connection to the garbage collector where it is cancelled
    # while it connects, as when many clients leave at once.
    ignored = pytest.mark.filterwarnings("ignore:unclosed <StreamWriter:ResourceWarning")
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(ignored)


@pytest.fixture(autouse=True)
def plain_logs() -> None:
    use_plain_logs()


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
async def worker(stack: Stack) -> Worker:
    """One worker, as fast as the event loop turns."""
    return await stack.worker()
