"""Key figures."""

from __future__ import annotations

from relais_common.errors import InvalidRequest, KpisUnavailable
from relais_common.kpis.report import Report
from relais_orchestrator import kpis
from relais_orchestrator.openapi.route import Access, Answer, Route
from relais_orchestrator.routes.admin import TAG
from relais_orchestrator.schemas.kpis import MAX_DAYS, KpisQuery

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
        answers=(Answer(200, "The figures.", Report),),
        errors=(InvalidRequest, KpisUnavailable),
    )
]
