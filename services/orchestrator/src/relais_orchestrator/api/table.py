"""The declarations of all routes. A route without a declaration fails a test."""

from __future__ import annotations

from relais_orchestrator.api.admin import routes as admin
from relais_orchestrator.api.batches import routes as batches
from relais_orchestrator.api.embeddings import routes as embeddings
from relais_orchestrator.api.files import routes as files
from relais_orchestrator.api.kpis import routes as kpis
from relais_orchestrator.api.native import routes as native
from relais_orchestrator.api.openai import routes as openai
from relais_orchestrator.api.route import Route
from relais_orchestrator.api.service import routes as service
from relais_orchestrator.api.tokens import routes as tokens
from relais_orchestrator.api.usage import routes as usage

ROUTES: tuple[Route, ...] = (
    *native.ROUTES,
    *openai.ROUTES,
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
