"""Reads KPI reports from MongoDB for the route."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import structlog
from aiohttp import web

from relais_common.insights.mongo import Database, MongoSettings, PyMongoError, open_database
from relais_common.insights.objectives import Objectives
from relais_common.insights.periods import Period
from relais_common.insights.report import Axis, Report
from relais_common.insights.store import read_report
from relais_common.jobs.errors import KpisUnavailable

log = structlog.get_logger(__name__)

ANSWER_TIMEOUT_S = 30.0
RETRY_AFTER_S = 5.0


class KpiReader:
    """Reads one report at a time. A month with many keys takes seconds, and streams have precedence."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._turn = asyncio.Lock()

    async def report(self, period: Period, by: Axis, objectives: Objectives) -> Report:
        """Raises KpisUnavailable."""
        try:
            async with self._turn:
                return await read_report(self._database, period, by=by, objectives=objectives)
        except PyMongoError as error:
            log.warning("kpis_unavailable", error=f"{type(error).__name__}: {error}"[:300])
            raise KpisUnavailable(
                "the trace database does not answer", retry_after_s=RETRY_AFTER_S
            ) from error


KPIS: web.AppKey[KpiReader] = web.AppKey("kpis", KpiReader)
"""Not set if this deployment keeps no traces."""


@asynccontextmanager
async def open_kpis(settings: MongoSettings | None) -> AsyncIterator[KpiReader | None]:
    """Return a reader, or None if no database is configured. Does not connect yet. Raises SettingsError."""
    if settings is None:
        yield None
        return
    async with open_database(replace(settings, answer_timeout_s=ANSWER_TIMEOUT_S)) as database:
        yield KpiReader(database)
