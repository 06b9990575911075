"""The API: every route, with all that a client may know of it. A route without a declaration fails a test."""

from __future__ import annotations

from relais_orchestrator.openapi.route import Route
from relais_orchestrator.routes import admin, embeddings, kpis, native, openai, service, usage

ROUTES: tuple[Route, ...] = (
    *native.ROUTES,
    *openai.ROUTES,
    *embeddings.ROUTES,
    *usage.ROUTES,
    *admin.ROUTES,
    *kpis.ROUTES,
    *service.ROUTES,
)
