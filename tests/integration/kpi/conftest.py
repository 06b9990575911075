"""A database of each test's own."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator

import pytest

from relais_common.insights.mongo import Database, MongoSettings, open_database
from relais_testing.mongo import MongoServer
from relais_testing.waiting import LIVENESS_S


@pytest.fixture
def mongo(mongo_server: MongoServer) -> MongoSettings:
    """An empty database."""
    return MongoSettings(
        url=mongo_server.url, database=f"test-{uuid.uuid4().hex}", answer_timeout_s=LIVENESS_S
    )


@pytest.fixture
async def database(mongo: MongoSettings) -> AsyncIterator[Database]:
    async with open_database(mongo) as database:
        yield database
