"""Declarations of the routes that list models."""

from __future__ import annotations

from relais_common.jobs.errors import InvalidRequest, ModelNotFound
from relais_orchestrator.api.messages.objects import ErrorEnvelope, ModelInfo, ModelPage
from relais_orchestrator.api.models import handlers
from relais_orchestrator.api.models.schemas import ModelsQuery
from relais_orchestrator.api.openai.objects import ModelList, ModelObject
from relais_orchestrator.api.route import Header, ResponseSpec, Route
from relais_orchestrator.http.errors import ErrorResponse
from relais_orchestrator.http.request_ids import ANTHROPIC_VERSION

TAG = "Models"
VERSION = Header(ANTHROPIC_VERSION, str, "Whatever it says, the response has Anthropic's form.")

ROUTES = [
    Route(
        method="GET",
        path="/v1/models",
        handler=handlers.list_models,
        tag=TAG,
        summary="List the models",
        query=ModelsQuery,
        headers=(VERSION,),
        error=ErrorResponse | ErrorEnvelope,
        responses=(
            ResponseSpec(
                200,
                "Those declared that the key may use, with a worker or without.",
                ModelList | ModelPage,
            ),
        ),
        errors=(InvalidRequest,),
    ),
    Route(
        method="GET",
        path="/v1/models/{model:.+}",
        handler=handlers.show_model,
        tag=TAG,
        summary="See one model",
        headers=(VERSION,),
        error=ErrorResponse | ErrorEnvelope,
        responses=(ResponseSpec(200, "The model.", ModelObject | ModelInfo),),
        errors=(ModelNotFound,),
    ),
]
