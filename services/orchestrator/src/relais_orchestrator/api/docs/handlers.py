"""`/openapi.json`: the document, built once at start."""

from __future__ import annotations

from aiohttp import web

from relais_orchestrator.http.fixed import Fixed

DOCUMENT: web.AppKey[Fixed] = web.AppKey("openapi_document", Fixed)


async def document(request: web.Request) -> web.Response:
    """`GET /openapi.json`."""
    return await request.app[DOCUMENT].send(request)
