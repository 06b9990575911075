"""An orchestrator with a database that speaks MongoDB's protocol, and what clients do with it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from relais_testing.batches import BatchClient
from relais_testing.kept import Kept, open_kept
from relais_testing.mongo import MongoServer
from relais_testing.stack import Front, Stack


@pytest.fixture
async def kept(mongo_server: MongoServer) -> AsyncIterator[Kept]:
    async with open_kept(mongo_server.url, BATCH_LEASE_S="1") as kept:
        yield kept


@pytest.fixture
async def front(stack: Stack, kept: Kept) -> Front:
    return await stack.front(**kept.settings)


@pytest.fixture
def client(front: Front) -> BatchClient:
    return BatchClient(front.session)
