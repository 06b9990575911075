"""An orchestrator that stores responses, and a worker."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from relais_testing.kept import Kept, open_kept
from relais_testing.mongo import MongoServer
from relais_testing.stack import Front, Stack


@pytest.fixture
async def kept(mongo_server: MongoServer) -> AsyncIterator[Kept]:
    async with open_kept(mongo_server.url) as kept:
        yield kept


@pytest.fixture
async def front(stack: Stack, kept: Kept) -> Front:
    """One on which a stall of the whole machine ends no request."""
    return await stack.front(WATCH_LEASE_S="60", **kept.settings)
