"""A server whose every answer has OpenAI's error object, also to bytes that are no request."""

from __future__ import annotations

from typing import Any

import structlog
from aiohttp import web
from aiohttp.http_exceptions import BadHttpMessage, LineTooLong
from aiohttp.web_protocol import RequestHandler, RequestPayloadError

from relais_common.errors import ErrorInfo
from relais_orchestrator.behind_proxy import BehindProxy
from relais_orchestrator.problems import INTERNAL
from relais_orchestrator.request_ids import SERVER, new_request_id
from relais_orchestrator.responses import error_response

log = structlog.get_logger(__name__)

MAX_LINE_BYTES = 8190
"""Of the request line, and of each header."""

MAX_HEADERS = 128

TOO_LARGE = ErrorInfo(
    f"the path with its query and each header have at most {MAX_LINE_BYTES} bytes, and there are at most"
    f" {MAX_HEADERS} headers",
    "invalid_request_error",
    None,
    "headers_too_large",
    431,
)
MALFORMED = ErrorInfo(
    "this is no well-formed HTTP request", "invalid_request_error", None, "invalid_http", 400
)


class _Connection(RequestHandler):
    """Answers what aiohttp would answer in plain text."""

    __slots__ = ()

    def log_exception(self, *args: Any, **kwargs: Any) -> None:
        # The rest of a body that cannot be read: its client's fault, and answered with 400 already.
        if not isinstance(kwargs.get("exc_info"), RequestPayloadError):
            super().log_exception(*args, **kwargs)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        info = _info(status, exc)
        if info.status >= 500:
            log.error("connection_failed", exc_info=exc)
        if request.writer.output_size > 0:
            raise ConnectionError("the answer has begun: it cannot become an error")
        response = error_response(info)
        response.headers["X-Request-Id"] = new_request_id()
        response.headers["OpenAI-Processing-Ms"] = "0"
        response.headers["Server"] = SERVER
        response.force_close()
        return response


def _info(status: int, error: BaseException | None) -> ErrorInfo:
    if status >= 500:
        return INTERNAL
    # The other bound has no class of its own.
    too_many = isinstance(error, BadHttpMessage) and "Too many headers" in error.message
    return TOO_LARGE if too_many or isinstance(error, LineTooLong) else MALFORMED


class _Server(web.Server):
    def __call__(self) -> RequestHandler:
        return _Connection(self, loop=self._loop, **self._kwargs)


class Runner(web.AppRunner):
    """Runs an application; a client that leaves cancels its handler: so a disconnect is noticed in a silence."""

    def __init__(
        self, app: web.Application, proxy: BehindProxy, *, shutdown_timeout_s: float
    ) -> None:
        super().__init__(app, shutdown_timeout=shutdown_timeout_s)
        self._proxy = proxy

    async def _make_server(self) -> web.Server:
        plain = await super()._make_server()

        def make_request(*parts: Any) -> web.BaseRequest:
            return self._proxy.as_meant(plain.request_factory(*parts))

        return _Server(
            plain.request_handler,
            request_factory=make_request,
            handler_cancellation=True,
            access_log=None,
            max_line_size=MAX_LINE_BYTES,
            max_field_size=MAX_LINE_BYTES,
            max_headers=MAX_HEADERS,
        )
