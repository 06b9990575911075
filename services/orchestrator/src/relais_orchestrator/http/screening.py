"""Refuses some requests regardless of route and sender."""

from __future__ import annotations

from aiohttp import web
from aiohttp.typedefs import Handler

from relais_common.jobs.errors import NotFound, UnsupportedMediaType
from relais_orchestrator.http.behind_proxy import is_plain
from relais_orchestrator.http.problems import shown_path


@web.middleware
async def screen(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Refuse paths that servers may read differently, and compressed bodies.

    Raises:
        NotFound: for a path.
        UnsupportedMediaType: for a body.
    """
    if not is_plain(request.rel_url.raw_path):
        raise NotFound(f"there is no {shown_path(request)}")
    encodings = ",".join(request.headers.getall("Content-Encoding", ()))
    if encodings.strip().lower() not in ("", "identity"):
        raise UnsupportedMediaType(
            "send the body without Content-Encoding: compressed bodies are not read",
            param="Content-Encoding",
        )
    return await handler(request)
