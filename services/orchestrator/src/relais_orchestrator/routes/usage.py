"""What keys took."""

from __future__ import annotations

from relais_common.errors import Forbidden, InvalidRequest, StoreUnavailable
from relais_common.limits import USAGE_DAYS
from relais_orchestrator import usage
from relais_orchestrator.openapi.route import Answer, Route
from relais_orchestrator.schemas.usage import UsageQuery, UsageResponse

ROUTES = [
    Route(
        method="GET",
        path="/v1/usage",
        handler=usage.usage,
        tag="Usage",
        summary="See what a key took",
        description=f"By day and model, kept for {USAGE_DAYS} days. A request counts once it has ended.",
        query=UsageQuery,
        answers=(Answer(200, "Days with nothing are left out.", UsageResponse),),
        errors=(Forbidden, InvalidRequest, StoreUnavailable),
    )
]
