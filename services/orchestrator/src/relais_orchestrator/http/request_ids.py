"""A name for every request: in its answer's headers, and on every line that is logged meanwhile."""

from __future__ import annotations

import asyncio
import re
import secrets

import structlog
from aiohttp import web

SERVER = "relais"
"""Said in place of the library's words, which tell versions to whoever looks for a weakness of one."""

FORM = r"^[A-Za-z0-9._:-]{1,128}$"
_FORM = re.compile(FORM)
REQUEST_ID: web.RequestKey[str] = web.RequestKey("request_id", str)
_BEGAN_S: web.RequestKey[float] = web.RequestKey("began_s", float)


def begin(request: web.Request) -> None:
    """Name the request as its client does, where that is a name, or else anew."""
    given = request.headers.get("X-Request-Id", "")
    request_id = given if _FORM.fullmatch(given) else new_request_id()
    request[REQUEST_ID] = request_id
    request[_BEGAN_S] = asyncio.get_running_loop().time()
    # Each connection has a context of its own, and its next request takes this one's place.
    structlog.contextvars.bind_contextvars(request_id=request_id, client=request.remote)


def new_request_id() -> str:
    return f"req-{secrets.token_urlsafe(16)}"


def call_by_channel(request: web.Request, channel_id: str) -> None:
    """From here on the answer bears the channel's name, by which it is found again."""
    request[REQUEST_ID] = channel_id


async def stamp(request: web.Request, response: web.StreamResponse) -> None:
    """The headers that every answer has; for `Application.on_response_prepare`."""
    took_s = asyncio.get_running_loop().time() - request[_BEGAN_S]
    response.headers["X-Request-Id"] = request[REQUEST_ID]
    response.headers["Server"] = SERVER
    response.headers["OpenAI-Processing-Ms"] = str(int(took_s * 1000))
