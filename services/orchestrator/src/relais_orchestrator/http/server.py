"""The orchestrator's HTTP server. Every error is an API's error object; for malformed requests, OpenAI's."""

from __future__ import annotations

from functools import partial
from typing import Any

from aiohttp import web

from relais_common.runtime.connections import (
    BoundedConnection,
    BoundedRunner,
    ConnectionBounds,
    error_of,
)
from relais_orchestrator.http.behind_proxy import BehindProxy
from relais_orchestrator.http.problems import ErrorBodies, problems
from relais_orchestrator.http.refusal_log import RefusalLog
from relais_orchestrator.http.request_ids import SERVER, new_request_id
from relais_orchestrator.http.traffic import RESPONSE_BEGUN, TRAFFIC
from relais_orchestrator.http.trailing_slashes import TrailingSlashes


class _Connection(BoundedConnection):
    __slots__ = ("_refusals",)

    def __init__(self, refusals: RefusalLog, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._refusals = refusals

    def note_cut(self, request: web.BaseRequest | None) -> None:
        # A stream may not have noticed, because its writes wait only once buffers are full.
        if request is not None and request.get(RESPONSE_BEGUN) and TRAFFIC in request:
            request[TRAFFIC].cut += 1

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        response = super().handle_error(request, status, exc, message)
        request_id = new_request_id()
        info = error_of(status, exc)
        if info.status < 500:
            self._refusals.note(info, request_id=request_id, key_id=None, path=None)
        response.headers["X-Request-Id"] = request_id
        response.headers["OpenAI-Processing-Ms"] = "0"
        response.headers["Server"] = SERVER
        return response


class Runner(BoundedRunner):
    """Runs the application behind its proxy."""

    def __init__(
        self,
        app: web.Application,
        bounds: ConnectionBounds,
        proxy: BehindProxy,
        slashes: TrailingSlashes,
        error_bodies: ErrorBodies,
        *,
        shutdown_timeout_s: float,
    ) -> None:
        self._refusals = RefusalLog()
        self._proxy = proxy
        self._slashes = slashes
        self._error_bodies = error_bodies
        super().__init__(
            app,
            bounds,
            shutdown_timeout_s=shutdown_timeout_s,
            connection=partial(_Connection, self._refusals),
        )

    def _handler(self, plain: Any) -> Any:
        # Wraps the application instead of being a middleware: routing and `Expect` come before middlewares.
        async def handle(request: web.Request) -> web.StreamResponse:
            return await problems(
                request, plain, refusals=self._refusals, bodies=self._error_bodies
            )

        return handle

    def _request_factory(self, plain: Any) -> Any:
        def make_request(*parts: Any) -> web.BaseRequest:
            return self._slashes.dropped(self._proxy.as_meant(plain(*parts)))

        return make_request
