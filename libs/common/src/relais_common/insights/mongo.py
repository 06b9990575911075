"""Access to MongoDB. Only this module imports its driver."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import bson
from bson.errors import BSONError
from motor.motor_asyncio import AsyncIOMotorClient, AsyncIOMotorDatabase
from pymongo import ASCENDING, DESCENDING, ReplaceOne, UpdateOne
from pymongo.errors import (
    BulkWriteError,
    ConfigurationError,
    ConnectionFailure,
    DuplicateKeyError,
    OperationFailure,
    PyMongoError,
)

from relais_common.jobs.errors import SettingsError
from relais_common.runtime import environ
from relais_common.runtime.environ import Environ

__all__ = [
    "ASCENDING",
    "DESCENDING",
    "DUPLICATE_KEY",
    "NOT_ENCODABLE",
    "BulkWriteError",
    "ConnectionFailure",
    "Database",
    "DuplicateKeyError",
    "MongoSettings",
    "OperationFailure",
    "PyMongoError",
    "ReplaceOne",
    "UpdateOne",
    "is_encodable",
    "open_database",
    "read_mongo_settings",
]

DUPLICATE_KEY = 11000
"""Error code of a write that conflicts with a document of the same `_id`."""

NOT_ENCODABLE = (BSONError, OverflowError, ValueError, TypeError)
"""Errors that the driver raises for a document that it cannot encode."""

Database = AsyncIOMotorDatabase[dict[str, Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class MongoSettings:
    """Settings of the MongoDB connection.

    Attributes:
        url: may contain a password, so it is never shown.
        timeout_s: how long to look for a server, and to wait for an answer.
        answer_timeout_s: how long to wait for slow answers: a job's reads of many documents.
    """

    url: str = field(repr=False)
    database: str
    timeout_s: float = 5.0
    answer_timeout_s: float | None = None


def read_mongo_settings(env: Environ) -> MongoSettings | None:
    """Read `MONGODB_URL`, `MONGODB_DATABASE` and `MONGODB_TIMEOUT_S`; None without a URL.

    Raises:
        SettingsError: a setting is invalid.
    """
    url = environ.optional_text(env, "MONGODB_URL")
    settings = MongoSettings(
        url=url or "",
        database=environ.text(env, "MONGODB_DATABASE", "relais"),
        timeout_s=environ.number(env, "MONGODB_TIMEOUT_S", 5.0, at_least=0.1, at_most=600),
    )
    if url is None:
        return None
    if not url.startswith(("mongodb://", "mongodb+srv://")):
        raise SettingsError("MONGODB_URL takes a mongodb:// or mongodb+srv:// address")
    return settings


def _patience(settings: MongoSettings) -> dict[str, Any]:
    if settings.answer_timeout_s is None:
        return {"timeoutMS": int(settings.timeout_s * 1000)}
    # `timeoutMS` would override the server selection timeout.
    return {"socketTimeoutMS": int(settings.answer_timeout_s * 1000)}


@asynccontextmanager
async def open_database(settings: MongoSettings) -> AsyncIterator[Database]:
    """Return a database with timezone-aware dates and writes journalled by a majority. Does not connect yet.

    Raises:
        SettingsError: the URL is malformed.
    """
    timeout_ms = int(settings.timeout_s * 1000)
    try:
        client: AsyncIOMotorClient[dict[str, Any]] = AsyncIOMotorClient(
            settings.url,
            tz_aware=True,
            appname="relais",
            w="majority",
            journal=True,
            serverSelectionTimeoutMS=timeout_ms,
            connectTimeoutMS=timeout_ms,
            **_patience(settings),
        )
    except (ConfigurationError, ValueError) as error:
        raise SettingsError(f"MONGODB_URL: {error}") from None
    try:
        yield client[settings.database]
    finally:
        client.close()


def is_encodable(document: dict[str, Any]) -> bool:
    """Return whether a document can be encoded: all values have supported types and are within bounds."""
    try:
        bson.encode(document)
    except NOT_ENCODABLE:
        return False
    return True
