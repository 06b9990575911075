"""One suite, two stores: tests that take `ports` run over memory and over Redis."""

from __future__ import annotations

import pytest

from relais_common.redis_store import RedisStore
from support.ports import Ports, memory_ports, redis_ports


@pytest.fixture(params=["memory", "redis"])
def ports(request: pytest.FixtureRequest) -> Ports:
    if request.param == "memory":
        return memory_ports(request.getfixturevalue("memory_store"))
    store: RedisStore = request.getfixturevalue("redis_store")
    return redis_ports(store)
