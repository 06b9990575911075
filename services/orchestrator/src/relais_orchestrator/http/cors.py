"""CORS: which pages of other origins may call the API. Pages send keys themselves; cookies are never used."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler

from relais_orchestrator.http import ignored_fields

ALLOWED_METHODS = "GET, HEAD, POST, DELETE"
EXPOSED_HEADERS = ", ".join(
    (
        "ETag",
        "Location",
        "OpenAI-Processing-Ms",
        "Retry-After",
        "Request-Id",
        ignored_fields.HEADER,
        "X-Relais-Events-Url",
        "X-Relais-Queue-Ms",
        "X-Request-Id",
        *(
            f"X-RateLimit-{what}-{of}"
            for what in ("Limit", "Remaining", "Reset")
            for of in ("Requests", "Tokens")
        ),
    )
)
PREFLIGHT_MAX_AGE_S = 600

_LOCALHOST = re.compile(r"https?://(localhost|127\.0\.0\.1|\[::1\])(:\d{1,5})?")
_NAMES = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+( *, *[!#$%&'*+.^_`|~0-9A-Za-z-]+)*")
"""Names of headers."""


@dataclass(frozen=True, slots=True)
class Cors:
    """Answers preflights, and lets pages of allowed origins read every response, also errors and streams.

    Attributes:
        origins: the allowed ones; `*` for any.
        localhost: also those of servers on the browser's own machine.
    """

    origins: Collection[str] = ()
    localhost: bool = False

    async def stamp(self, request: web.Request, response: web.StreamResponse) -> None:
        """Add the headers of every response; for `Application.on_response_prepare`."""
        if not (self.origins or self.localhost):
            return
        # A cache must not give one origin what another one got.
        response.headers.add(hdrs.VARY, hdrs.ORIGIN)
        if (allowed := self._allowed(request)) is not None:
            response.headers[hdrs.ACCESS_CONTROL_ALLOW_ORIGIN] = allowed
            response.headers[hdrs.ACCESS_CONTROL_EXPOSE_HEADERS] = EXPOSED_HEADERS

    @web.middleware
    async def middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Answer a preflight of an allowed origin: the page may send any header."""
        if (
            request.method != hdrs.METH_OPTIONS
            or hdrs.ACCESS_CONTROL_REQUEST_METHOD not in request.headers
            or self._allowed(request) is None
        ):
            return await handler(request)
        headers = {
            hdrs.ACCESS_CONTROL_ALLOW_METHODS: ALLOWED_METHODS,
            hdrs.ACCESS_CONTROL_MAX_AGE: str(PREFLIGHT_MAX_AGE_S),
        }
        # Clients send headers of their own: OpenAI's has a dozen that begin with X-Stainless-.
        asked = request.headers.get(hdrs.ACCESS_CONTROL_REQUEST_HEADERS, "").strip()
        if _NAMES.fullmatch(asked):
            headers[hdrs.ACCESS_CONTROL_ALLOW_HEADERS] = asked
        return web.Response(headers=headers)

    def _allowed(self, request: web.Request) -> str | None:
        """Return the origin to allow; None if the request has none, or another."""
        origin = request.headers.get(hdrs.ORIGIN)
        if origin is None:
            return None
        if "*" in self.origins:
            return "*"
        if origin in self.origins or (self.localhost and _LOCALHOST.fullmatch(origin)):
            return origin
        return None
