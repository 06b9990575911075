"""A worker's parts over the store in memory."""

from __future__ import annotations

import pytest

from relais_testing.faults import Faults
from relais_testing.memory import MemoryStore
from relais_testing.plain_logs import use_plain_logs
from relais_testing.ports import Ports, memory_ports


@pytest.fixture(autouse=True)
def plain_logs() -> None:
    use_plain_logs()


@pytest.fixture
def ports(memory_store: MemoryStore) -> Ports:
    return memory_ports(memory_store)


@pytest.fixture
def faults() -> Faults:
    return Faults()
