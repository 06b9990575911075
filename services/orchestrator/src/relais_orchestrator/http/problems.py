"""Turns exceptions into JSON errors; nothing else does. Clients see a code, logs have the traceback.

It wraps the whole application, and also assigns request ids.
"""

from __future__ import annotations

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
from relais_orchestrator.http.responses import error_response

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


async def problems(request: web.Request, handler: Handler) -> web.StreamResponse:
    request_ids.begin(request)
    try:
        return await handler(request)
    except Exception as error:  # noqa: BLE001 - all become answers, or are raised again
        try:
            return _answer_to(error, request)
        finally:
            forget_frames(error)


def _answer_to(error: Exception, request: web.Request) -> web.Response:
    """Raises the error itself where an answer has begun."""
    match error:
        case RelaisError():
            if error.status >= 500:
                log.warning(
                    "request_failed", path=shown_path(request), code=error.code, error=error.message
                )
            if isinstance(error, RateLimited):
                rate_headers.note(request, error.buckets)
            return error_response(error.info, retry_after_s=error.retry_after_s)
        case web.HTTPNotFound():
            return error_response(NotFound(f"there is no {shown_path(request)}").info)
        case web.HTTPMethodNotAllowed():
            allowed = ", ".join(sorted(error.allowed_methods))
            message = f"{shown_path(request)} takes {allowed}"
            response = error_response(MethodNotAllowed(message).info)
            response.headers["Allow"] = allowed
            return response
        case web.HTTPExpectationFailed():
            return error_response(EXPECTATION_FAILED)
        case web.HTTPException():
            info = ErrorInfo(error.reason, "invalid_request_error", None, None, error.status)
            return error_response(info)
        case ConnectionError():
            # The client has gone: what is answered reaches nobody, but aiohttp takes it for a fault of ours if raised.
            log.info("client_disconnected", path=shown_path(request), error=str(error))
            return error_response(INTERNAL)
        case _:
            log.error("request_crashed", path=shown_path(request), exc_info=error)
            if request.writer.output_size > 0:
                raise error
            return error_response(INTERNAL)
