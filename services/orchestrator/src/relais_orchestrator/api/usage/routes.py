"""Route of usage by key."""

from __future__ import annotations

from relais_common.jobs.errors import Forbidden, InvalidRequest, StoreUnavailable
from relais_common.jobs.limits import USAGE_DAYS
from relais_orchestrator.api.route import ResponseSpec, Route
from relais_orchestrator.api.usage import handlers as usage
from relais_orchestrator.api.usage.schemas import UsageQuery, UsageResponse

ROUTES = [
    Route(
        method="GET",
        path="/v1/usage",
        handler=usage.usage,
        tag="Usage",
        summary="See what a key took",
        description=f"By day and model, kept for {USAGE_DAYS} days. A request counts once it has ended.",
        query=UsageQuery,
        responses=(ResponseSpec(200, "Days with nothing are left out.", UsageResponse),),
        errors=(Forbidden, InvalidRequest, StoreUnavailable),
    )
]
