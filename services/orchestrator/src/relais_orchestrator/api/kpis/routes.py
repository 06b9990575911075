"""Route of the KPIs."""

from __future__ import annotations

from relais_common.insights.report import Report
from relais_common.jobs.errors import InvalidRequest, KpisUnavailable
from relais_orchestrator.api.admin.routes import TAG
from relais_orchestrator.api.kpis import handlers as kpis
from relais_orchestrator.api.kpis.schemas import MAX_DAYS, KpisQuery
from relais_orchestrator.api.route import Access, ResponseSpec, Route

ROUTES = [
    Route(
        method="GET",
        path="/v1/kpis",
        handler=kpis.kpis,
        tag=TAG,
        summary="See what was served, and how well",
        description="Of whole hours that `relais kpi rollup` has rolled up, beside as many just before; "
        f"at most {MAX_DAYS} days. Durations are in seconds, shares from 0 to 1.",
        access=Access.ADMIN,
        query=KpisQuery,
        responses=(ResponseSpec(200, "The figures.", Report),),
        errors=(InvalidRequest, KpisUnavailable),
    )
]
