"""Declarations of the health probes and the OpenAPI document."""

from __future__ import annotations

from typing import Any

from relais_orchestrator.api.docs import handlers
from relais_orchestrator.api.route import Access, ResponseSpec, Route
from relais_orchestrator.api.service.schemas import Alive, NotReady, Ready

TAG = "Service"

ROUTES = [
    Route(
        method="GET",
        path="/healthz",
        handler=None,
        tag=TAG,
        summary="Is the process alive?",
        access=Access.OPEN,
        responses=(ResponseSpec(200, "Its event loop turns.", Alive),),
    ),
    Route(
        method="GET",
        path="/readyz",
        handler=None,
        tag=TAG,
        summary="Does it take requests?",
        access=Access.OPEN,
        responses=(
            ResponseSpec(200, "Yes.", Ready),
            ResponseSpec(503, "No: it drains, or Redis does not answer.", NotReady),
        ),
    ),
    Route(
        method="GET",
        path="/health",
        handler=None,
        tag=TAG,
        summary="The same, by the name that vLLM has",
        access=Access.OPEN,
        responses=(
            ResponseSpec(200, "Yes.", Ready),
            ResponseSpec(503, "No: it drains, or Redis does not answer.", NotReady),
        ),
    ),
    Route(
        method="GET",
        path="/metrics",
        handler=None,
        tag=TAG,
        summary="What is counted and measured, for Prometheus",
        access=Access.OPEN,
        responses=(
            ResponseSpec(200, "Prometheus's text, or OpenMetrics where `Accept` names it."),
        ),
    ),
    Route(
        method="GET",
        path="/openapi.json",
        handler=handlers.document,
        tag=TAG,
        summary="This document",
        access=Access.OPEN,
        responses=(
            ResponseSpec(200, "OpenAPI 3.1.", dict[str, Any]),
            ResponseSpec(304, "What `If-None-Match` names is still current."),
        ),
    ),
]
