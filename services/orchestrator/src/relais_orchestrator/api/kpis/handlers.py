"""`GET /v1/kpis`: the KPIs of a period, from the rollups that `relais kpi rollup` wrote."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from aiohttp import web

from relais_common.insights.objectives import Objectives, parse_objectives
from relais_common.insights.periods import Period, parse_period
from relais_common.jobs.errors import InvalidRequest, KpisUnavailable
from relais_orchestrator.api.kpis.reader import KPIS
from relais_orchestrator.api.kpis.schemas import MAX_DAYS, KpisQuery
from relais_orchestrator.api.parsing import parse_query
from relais_orchestrator.http.responses import json_response


async def kpis(request: web.Request) -> web.Response:
    """Return the same figures as `relais kpi report --format json`."""
    query = parse_query(KpisQuery, request.query)
    period, objectives = _period(query), _objectives(query)
    reader = request.app.get(KPIS)
    if reader is None:
        raise KpisUnavailable("no traces are kept here: MONGODB_URL is not set")
    return json_response(await reader.report(period, query.by, objectives))


def _period(query: KpisQuery) -> Period:
    try:
        period = parse_period(query.since, query.until, now=datetime.now(UTC))
    except ValueError as error:
        name = str(error).partition(":")[0]
        raise InvalidRequest(str(error), param=name) from None
    if period.until - period.since > timedelta(days=MAX_DAYS):
        raise InvalidRequest(
            f"since: at most {MAX_DAYS} days at once; `relais kpi report` takes more", param="since"
        )
    return period


def _objectives(query: KpisQuery) -> Objectives:
    try:
        return parse_objectives(query.slo)
    except ValueError as error:
        raise InvalidRequest(f"slo: {error}", param="slo") from None
