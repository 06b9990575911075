"""The declarations of all routes, and what the APIs that they belong to register.

A route without a declaration fails a test.
"""

from __future__ import annotations

from collections.abc import Mapping

from aiohttp import web

from relais_common.jobs.errors import ErrorInfo
from relais_orchestrator.api.admin import routes as admin
from relais_orchestrator.api.batches import routes as batches
from relais_orchestrator.api.channel_streams import StreamFormat
from relais_orchestrator.api.embeddings import routes as embeddings
from relais_orchestrator.api.files import routes as files
from relais_orchestrator.api.kpis import routes as kpis
from relais_orchestrator.api.messages import handlers as messages_handlers
from relais_orchestrator.api.messages import routes as messages
from relais_orchestrator.api.messages.errors import error_envelope
from relais_orchestrator.api.models import routes as models
from relais_orchestrator.api.native import routes as native
from relais_orchestrator.api.openai import handlers as openai_handlers
from relais_orchestrator.api.openai import routes as openai
from relais_orchestrator.api.responses import handlers as responses_handlers
from relais_orchestrator.api.responses import routes as responses
from relais_orchestrator.api.route import Route
from relais_orchestrator.api.service import routes as service
from relais_orchestrator.api.tokens import routes as tokens
from relais_orchestrator.api.usage import routes as usage
from relais_orchestrator.http.request_ids import ANTHROPIC_PATH, ANTHROPIC_VERSION
from relais_orchestrator.http.responses import ErrorBody, error_body

ROUTES: tuple[Route, ...] = (
    *native.ROUTES,
    *openai.ROUTES,
    *messages.ROUTES,
    *models.ROUTES,
    *responses.ROUTES,
    *embeddings.ROUTES,
    *tokens.ROUTES,
    *files.ROUTES,
    *batches.ROUTES,
    *usage.ROUTES,
    *admin.ROUTES,
    *kpis.ROUTES,
    *service.ROUTES,
)

SUBMITTING = frozenset(route.template for route in ROUTES if route.asks is not None)
"""The paths of routes that queue requests."""

FORMATS: Mapping[str, StreamFormat] = {
    "openai": openai_handlers.channel_frames,
    "anthropic": messages_handlers.channel_frames,
    "responses": responses_handlers.channel_frames,
}
"""How a channel's events are written in the words of each API; see `StreamName`."""


def error_body_of(request: web.Request) -> ErrorBody:
    """Return the shape of a request's errors: its route's; where there is none, its client's."""
    path = request.path
    by_client = request.match_info.route.resource is None or path.startswith("/v1/models")
    is_client_s = by_client and ANTHROPIC_VERSION in request.headers
    return error_envelope if is_client_s or path.startswith(ANTHROPIC_PATH) else _openai


def _openai(info: ErrorInfo, _: str) -> object:
    return error_body(info)
