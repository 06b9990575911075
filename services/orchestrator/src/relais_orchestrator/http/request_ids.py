"""Assigns an id to every request, for its response headers and its log lines."""

from __future__ import annotations

import asyncio
import re
import secrets

import structlog
from aiohttp import web

SERVER = "relais"
"""Sent instead of the library's header, which reveals versions."""

ANTHROPIC_VERSION = "Anthropic-Version"
"""The request header that Anthropic's clients send."""

ANTHROPIC_PATH = "/v1/messages"
"""How the paths of Anthropic's own routes begin: its clients, which need not say who they are."""

FORM = r"^[A-Za-z0-9._:-]{1,128}$"
_FORM = re.compile(FORM)
REQUEST_ID: web.RequestKey[str] = web.RequestKey("request_id", str)
_BEGAN_S: web.RequestKey[float] = web.RequestKey("began_s", float)


def begin(request: web.Request) -> None:
    """Use the client's request id if it is valid, or else make one."""
    given = request.headers.get("X-Request-Id", "")
    request_id = given if _FORM.fullmatch(given) else new_request_id()
    request[REQUEST_ID] = request_id
    request[_BEGAN_S] = asyncio.get_running_loop().time()
    # Each connection has its own context, and its next request overwrites this value.
    structlog.contextvars.bind_contextvars(request_id=request_id, client=request.remote)


def new_request_id() -> str:
    """Return a new request id."""
    return f"req-{secrets.token_urlsafe(16)}"


def call_by_channel(request: web.Request, channel_id: str) -> None:
    """Use the channel id as request id from here on, so that the request can be found by it."""
    request[REQUEST_ID] = channel_id


async def stamp(request: web.Request, response: web.StreamResponse) -> None:
    """Add the headers of every response; for `Application.on_response_prepare`."""
    took_s = asyncio.get_running_loop().time() - request[_BEGAN_S]
    response.headers["X-Request-Id"] = request[REQUEST_ID]
    if ANTHROPIC_VERSION in request.headers or request.path.startswith(ANTHROPIC_PATH):
        # What its clients show with an error.
        response.headers["Request-Id"] = request[REQUEST_ID]
    response.headers["Server"] = SERVER
    response.headers["OpenAI-Processing-Ms"] = str(int(took_s * 1000))
