"""Turns exceptions into JSON errors; nothing else does. Clients see a code, logs have the traceback.

It wraps the whole application, and also assigns request ids.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import structlog
from aiohttp import web
from aiohttp.typedefs import Handler

from relais_common.jobs.errors import (
    ErrorInfo,
    MethodNotAllowed,
    NotFound,
    RateLimited,
    RelaisError,
)
from relais_common.runtime.connections import INTERNAL
from relais_common.runtime.garbage import forget_frames
from relais_orchestrator.http import rate_headers, request_ids
from relais_orchestrator.http.held import HOLDER
from relais_orchestrator.http.refusal_log import RefusalLog
from relais_orchestrator.http.responses import ErrorBody, error_response

log = structlog.get_logger(__name__)

EXPECTATION_FAILED = ErrorInfo(
    "the only thing to expect is 100-continue",
    "invalid_request_error",
    "Expect",
    "expectation_failed",
    417,
)


MAX_SHOWN_PATH = 200


def shown_path(request: web.BaseRequest) -> str:
    """Return the path, truncated: a client without a key may send 8 KB of it at will."""
    return request.path[:MAX_SHOWN_PATH]


ErrorBodies = Callable[[web.Request], ErrorBody]
"""Chooses the shape of a request's errors."""


async def problems(
    request: web.Request, handler: Handler, *, refusals: RefusalLog, bodies: ErrorBodies
) -> web.StreamResponse:
    """Answer a request.

    Args:
        bodies: makes the errors' bodies.
    """
    request_ids.begin(request)
    try:
        return await handler(request)
    except Exception as error:  # noqa: BLE001 - all become answers, or are raised again
        try:
            return _answer_to(error, request, refusals, bodies(request))
        finally:
            forget_frames(error)


def _answer_to(
    error: Exception, request: web.Request, refusals: RefusalLog, body_of: ErrorBody
) -> web.Response:
    """Raises the error itself where an answer has begun."""

    def body(info: ErrorInfo) -> Any:
        return body_of(info, request[request_ids.REQUEST_ID])

    info = _info_of(error, request)
    if info is None:
        if isinstance(error, ConnectionError):
            # The client has gone: what is answered reaches nobody, but aiohttp takes it for a fault of ours if raised.
            log.info("client_disconnected", path=shown_path(request), error=str(error))
        else:
            log.error("request_crashed", path=shown_path(request), exc_info=error)
            if request.writer.output_size > 0:
                raise error
        return error_response(INTERNAL, body(INTERNAL))
    _log(info, request, refusals)
    retry_after_s = getattr(error, "retry_after_s", None)
    response = error_response(info, body(info), retry_after_s=retry_after_s)
    if isinstance(error, RateLimited):
        rate_headers.note(request, error.buckets)
    if isinstance(error, web.HTTPMethodNotAllowed):
        response.headers["Allow"] = _allowed(error)
    return response


def _info_of(error: Exception, request: web.Request) -> ErrorInfo | None:
    """Return what a client is told; None for what is not its doing."""
    match error:
        case RelaisError():
            return error.info
        case web.HTTPNotFound():
            return NotFound(f"there is no {shown_path(request)}").info
        case web.HTTPMethodNotAllowed():
            return MethodNotAllowed(f"{shown_path(request)} takes {_allowed(error)}").info
        case web.HTTPExpectationFailed():
            return EXPECTATION_FAILED
        case web.HTTPException():
            return ErrorInfo(error.reason, "invalid_request_error", None, None, error.status)
    return None


def _allowed(error: web.HTTPMethodNotAllowed) -> str:
    return ", ".join(sorted(error.allowed_methods))


def _log(info: ErrorInfo, request: web.Request, refusals: RefusalLog) -> None:
    path = shown_path(request)
    if info.status >= 500:
        log.warning("request_failed", path=path, code=info.code, error=info.message)
    elif info.status >= 400:
        refusals.note(
            info, request_id=request[request_ids.REQUEST_ID], key_id=request.get(HOLDER), path=path
        )
