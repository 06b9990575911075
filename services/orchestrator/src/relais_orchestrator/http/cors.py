"""CORS: pages of other origins may call the API only if `CORS_ALLOW_ORIGINS` names them."""

from __future__ import annotations

import aiohttp_cors
from aiohttp import web

ALLOWED_HEADERS = (
    "Authorization",
    "Content-Type",
    "Idempotency-Key",
    "If-None-Match",
    "Last-Event-ID",
    "X-Request-Id",
)
EXPOSED_HEADERS = (
    "ETag",
    "Location",
    "OpenAI-Processing-Ms",
    "Retry-After",
    "X-Relais-Ignored-Fields",
    "X-Relais-Queue-Ms",
    "X-Request-Id",
    *(
        f"X-RateLimit-{what}-{of}"
        for what in ("Limit", "Remaining", "Reset")
        for of in ("Requests", "Tokens")
    ),
)
PREFLIGHT_MAX_AGE_S = 600


def allow_origins(app: web.Application, origins: tuple[str, ...]) -> None:
    """Enable CORS for all routes added so far. Pages send keys themselves; cookies are never used."""
    if not origins:
        return
    options = aiohttp_cors.ResourceOptions(  # type: ignore[no-untyped-call]
        allow_credentials=False,
        allow_headers=ALLOWED_HEADERS,
        expose_headers=EXPOSED_HEADERS,
        max_age=PREFLIGHT_MAX_AGE_S,
    )
    cors = aiohttp_cors.setup(app, defaults=dict.fromkeys(origins, options))
    for route in list(app.router.routes()):
        cors.add(route)
