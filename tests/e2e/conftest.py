"""Stacks of real processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from relais_testing.process_stack import Starter, make_starter
from relais_testing.valkey import ValkeyServer


@pytest.fixture
def start(
    make_redis_server: Callable[..., ValkeyServer], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Starter]:
    """Starts services on a Redis of this test's own."""
    with ExitStack() as stack:
        yield make_starter(stack, make_redis_server(), tmp_path_factory.mktemp("logs"))
