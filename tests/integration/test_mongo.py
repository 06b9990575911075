"""The database module against a server that speaks MongoDB's protocol."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from relais_common.insights.mongo import (
    MongoSettings,
    PyMongoError,
    open_database,
    read_mongo_settings,
)
from relais_common.jobs.errors import SettingsError
from relais_testing.mongo import MongoServer


async def test_what_is_written_outlives_a_killed_server(tmp_path: Path) -> None:
    with MongoServer(tmp_path, sync=True) as server:
        settings = MongoSettings(url=server.url, database="test")
        async with open_database(settings) as database:
            await database["traces"].insert_one(
                {"_id": "a", "at": datetime(2026, 1, 1, tzinfo=UTC)}
            )
            server.restart(kill=True)

            found = await database["traces"].find_one({"_id": "a"})

    assert found == {"_id": "a", "at": datetime(2026, 1, 1, tzinfo=UTC)}


async def test_a_server_that_is_away_is_an_error_and_no_endless_wait(tmp_path: Path) -> None:
    with MongoServer(tmp_path) as server:
        url = server.url
    settings = MongoSettings(url=url, database="test", timeout_s=0.2)
    async with open_database(settings) as database:
        with pytest.raises(PyMongoError):
            await database["traces"].find_one({})


def test_no_url_means_no_database() -> None:
    assert read_mongo_settings({}) is None


@pytest.mark.parametrize(
    ("name", "environ"),
    [
        ("MONGODB_URL", {"MONGODB_URL": "redis://:secret@localhost"}),
        ("MONGODB_TIMEOUT_S", {"MONGODB_URL": "mongodb://h", "MONGODB_TIMEOUT_S": "soon"}),
    ],
)
def test_a_wrong_setting_is_named_and_its_secret_is_not_shown(
    name: str, environ: dict[str, str]
) -> None:
    with pytest.raises(SettingsError, match=name) as caught:
        read_mongo_settings(environ)

    assert "secret" not in str(caught.value)


async def test_a_url_that_the_driver_refuses_names_the_setting() -> None:
    with pytest.raises(SettingsError, match="MONGODB_URL"):
        async with open_database(MongoSettings(url="mongodb://", database="test")):
            pass
