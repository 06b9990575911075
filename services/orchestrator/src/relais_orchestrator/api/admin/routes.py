"""The operators' routes."""

from __future__ import annotations

from relais_common.jobs.errors import (
    DeadLetterNotFound,
    ImageLost,
    InvalidRequest,
    ModelNotFound,
    QueueFull,
    StoreUnavailable,
    Unreadable,
)
from relais_orchestrator.api.admin import handlers as admin
from relais_orchestrator.api.admin.schemas import (
    AdminQuery,
    ChannelsQuery,
    ChannelsResponse,
    DeadLettersResponse,
    DroppedResponse,
    PageQuery,
    QueuesResponse,
    ReplayedResponse,
    WorkersResponse,
)
from relais_orchestrator.api.route import Access, ResponseSpec, Route

TAG = "Operators"
LISTED = (InvalidRequest, ModelNotFound, StoreUnavailable)

ROUTES = [
    Route(
        method="GET",
        path="/v1/admin/queues",
        handler=admin.queues,
        tag=TAG,
        summary="See what waits and runs",
        access=Access.ADMIN,
        query=AdminQuery,
        responses=(ResponseSpec(200, "Of each model.", QueuesResponse),),
        errors=LISTED,
    ),
    Route(
        method="GET",
        path="/v1/admin/workers",
        handler=admin.workers,
        tag=TAG,
        summary="See who is alive",
        access=Access.ADMIN,
        query=AdminQuery,
        responses=(
            ResponseSpec(200, "By model; also of models not declared here.", WorkersResponse),
        ),
        errors=(InvalidRequest, StoreUnavailable),
    ),
    Route(
        method="GET",
        path="/v1/admin/channels",
        handler=admin.channels,
        tag=TAG,
        summary="List living requests",
        access=Access.ADMIN,
        query=ChannelsQuery,
        responses=(
            ResponseSpec(200, "Of each model, the soonest deadline first.", ChannelsResponse),
        ),
        errors=LISTED,
    ),
    Route(
        method="GET",
        path="/v1/admin/dead-letters",
        handler=admin.dead_letters,
        tag=TAG,
        summary="List requests that were set aside",
        access=Access.ADMIN,
        query=PageQuery,
        responses=(ResponseSpec(200, "Of each model, the newest first.", DeadLettersResponse),),
        errors=LISTED,
    ),
    Route(
        method="POST",
        path="/v1/admin/dead-letters/{channel_id}/replay",
        handler=admin.replay,
        tag=TAG,
        summary="Run a dead letter's request again",
        access=Access.ADMIN,
        responses=(ResponseSpec(202, "In the queue again, on a new channel.", ReplayedResponse),),
        errors=(DeadLetterNotFound, ImageLost, QueueFull, StoreUnavailable, Unreadable),
    ),
    Route(
        method="DELETE",
        path="/v1/admin/dead-letters/{channel_id}",
        handler=admin.drop,
        tag=TAG,
        summary="Delete a dead letter's request",
        access=Access.ADMIN,
        responses=(ResponseSpec(200, "It is gone.", DroppedResponse),),
        errors=(DeadLetterNotFound, StoreUnavailable),
    ),
]
