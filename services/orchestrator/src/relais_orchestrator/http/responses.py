"""Builds JSON responses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import orjson
from aiohttp import web

from relais_common.jobs.errors import ErrorInfo
from relais_orchestrator.http.errors import ErrorResponse


def json_response(
    body: Any, *, status: int = 200, headers: dict[str, str] | None = None
) -> web.Response:
    """Return dataclasses, enums and plain values as JSON."""
    return web.Response(
        body=orjson.dumps(body), status=status, headers=headers, content_type="application/json"
    )


def error_body(info: ErrorInfo) -> ErrorResponse:
    """Return OpenAI's error object."""
    return {
        "error": {
            "message": info.message,
            "type": info.type,
            "param": info.param,
            "code": info.code,
        }
    }


ErrorBody = Callable[[ErrorInfo, str], Any]
"""Makes the body of an error, in the shape of one API, of what happened and the request's id."""


def error_response(
    info: ErrorInfo, body: Any = None, *, retry_after_s: float | None = None
) -> web.Response:
    """Return an error with its status, and `Retry-After` in whole seconds, rounded up.

    Args:
        body: OpenAI's error object by default.
    """
    headers = (
        {} if retry_after_s is None else {"Retry-After": str(max(1, -int(-retry_after_s // 1)))}
    )
    if info.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return json_response(body or error_body(info), status=info.status, headers=headers)
