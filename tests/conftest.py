"""Fixtures for every suite. A server that does not start fails the tests; none is skipped."""

from __future__ import annotations

import gc
import os
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import settings
from redis import Redis

from relais_common.queue.redis_store import RedisSettings, RedisStore, open_store
from relais_testing import leftovers
from relais_testing.key_leaks import keys_without_expiry
from relais_testing.memory import MemoryStore
from relais_testing.process_stack import ForkingRun, Forks, forking
from relais_testing.spreading import Spread, turn_of
from relais_testing.valkey import ValkeyServer

# In CI a failure must come back at the next run; at a desk, chance may find new ones.
settings.register_profile("ci", derandomize=True, deadline=None, print_blob=True)
settings.register_profile("desk", deadline=None)
settings.load_profile("ci" if os.environ.get("CI") else "desk")


# Processes of a run share the cores: a second thread of each would spin while it waits for the first.
os.environ.setdefault("OMP_NUM_THREADS", "1")

SHOWN_AT_ONCE = 4_000
"""Characters of a failure, its last, that are shown when it happens: the run may not live to its summary."""

THIS_RUN = pytest.StashKey[leftovers.Run]()
FORKING = pytest.StashKey[ForkingRun]()
FORKS = pytest.StashKey[Forks]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--full-counts", action="store_true", help="make the many requests that a claim is about"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Whatever ends this process, nothing that its tests started lives on."""
    stack = ExitStack()
    config.add_cleanup(stack.close)
    config.stash[THIS_RUN] = stack.enter_context(leftovers.guarded_run())
    if hasattr(config, "workerinput"):
        folder, mark = config.workerinput["forking"]
    else:
        folder = stack.enter_context(TemporaryDirectory(prefix="relais-"))
        mark = os.environ[leftovers.MARK]
    config.stash[FORKING] = run = ForkingRun(Path(folder), mark)
    config.stash[FORKS] = stack.enter_context(forking(run))
    config.pluginmanager.register(FailuresAtOnce(config))


@pytest.hookimpl
def pytest_configure_node(node: Any) -> None:
    """Tell a process of xdist's whose forks it shares."""
    run = node.config.stash[FORKING]
    node.workerinput["forking"] = (str(run.folder), run.mark)


class FailuresAtOnce:
    """Names a test when it fails: the summary comes at the end, minutes later."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config

    @pytest.hookimpl(trylast=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        reporter = self._config.pluginmanager.get_plugin("terminalreporter")
        if report.failed and reporter is not None:  # the processes of xdist have none
            crash = getattr(report.longrepr, "reprcrash", None)
            why = crash.message.partition("\n")[0] if crash else ""
            reporter.write(f"\nFAILED {report.nodeid} ({report.when}) {why}\n", red=True)
            reporter.write(f"{report.longreprtext[-SHOWN_AT_ONCE:]}\n")


@pytest.fixture(autouse=True)
def _leaves_no_process(pytestconfig: pytest.Config) -> Iterator[None]:
    run, forks = pytestconfig.stash[THIS_RUN], pytestconfig.stash[FORKS]
    run.begin_test(forks.sessions)
    yield
    left = run.end_test(forks.mothers, forks.sessions)
    forks.forget_ended()
    assert not left, f"the test left processes behind:\n{leftovers.describe(left)}"


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Collect no garbage while modules are imported, and never again walk what they made.

    Each process of a run imports all modules of tests; collections would take a third of that time.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.collect()
        gc.freeze()
        gc.enable()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Processes of one run must agree on the tests' names, which an address in memory is no part of."""
    for item in items:
        if " at 0x" in item.nodeid:
            raise pytest.UsageError(f"the name of {item.nodeid} changes from run to run: give ids")
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: turn_of(item.nodeid))


@pytest.hookimpl
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """With several processes (`-n`)."""
    config.option.loadscopereorder = False  # `turn_of` has ordered them
    return Spread(config, log)


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
