"""Fixtures for every suite. A server that does not start fails the tests; none is skipped."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from redis import Redis

from relais_common.memory import MemoryStore
from relais_common.redis_store import RedisSettings, RedisStore, open_store
from support.key_leaks import keys_without_expiry
from support.valkey import ValkeyServer

TESTS = Path(__file__).parent

# In CI a failure must come back at the next run; at a desk, chance may find new ones.
settings.register_profile("ci", derandomize=True, deadline=None, print_blob=True)
settings.register_profile("desk", deadline=None)
settings.load_profile("ci" if os.environ.get("CI") else "desk")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """With several processes (`-n`), the tests of a group run in one of them, one after another.

    A model takes cores and more than a gigabyte: at most two tests have any at once.
    """
    for item in items:
        if item.get_closest_marker("vllm"):
            suite = item.path.relative_to(TESTS).parts[0]
            item.add_marker(pytest.mark.xdist_group(f"vllm-{suite}"))


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ValkeyServer]:
    """One server for the whole run; to stop or kill one, take `make_redis_server` instead."""
    with ValkeyServer(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def make_redis_server(tmp_path: Path) -> Iterator[Callable[..., ValkeyServer]]:
    """Starts servers of this test's own: `make_redis_server(appendonly=True)`."""
    servers: list[ValkeyServer] = []

    def make(*, appendonly: bool = False, options: dict[str, str] | None = None) -> ValkeyServer:
        data_dir = tmp_path / f"redis-{len(servers)}"
        data_dir.mkdir()
        server = ValkeyServer(data_dir, appendonly=appendonly, options=options)
        servers.append(server)
        server.start()
        return server

    yield make
    for server in servers:
        server.kill()


@pytest.fixture
def redis_url(redis_server: ValkeyServer) -> Iterator[str]:
    """The server's address, with nothing on it; the test may leave no key that lives for ever."""
    with Redis.from_url(redis_server.url) as redis:
        redis.flushall()
        yield redis_server.url
        leaked = keys_without_expiry(redis)
    assert not leaked, f"keys that live for ever: {leaked}"


@pytest.fixture
async def redis_store(redis_url: str) -> AsyncIterator[RedisStore]:
    """Every port over the real server."""
    async with open_store(RedisSettings(redis_url)) as store:
        yield store


@pytest.fixture
def memory_store() -> MemoryStore:
    """Every port in memory, with the wall clock."""
    return MemoryStore()
