"""Declarations of routes, from which the routing table and the OpenAPI document are built."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from aiohttp import web
from aiohttp.typedefs import Handler
from pydantic import BaseModel

from relais_common.jobs.errors import RelaisError
from relais_common.jobs.job import ModelOperation
from relais_orchestrator.api.callers import caller_of, check_admin
from relais_orchestrator.batches.endpoints import Endpoint
from relais_orchestrator.http.errors import ErrorResponse


class Access(Enum):
    """The credentials that a route requires. `Route.to_aiohttp` sees to it, so no handler has to."""

    OPEN = "anyone"
    KEY = "a key"
    KEY_OR_EVENTS_URL = "a key, or the token in an `events_url`"
    ADMIN = "a key with admin rights"


KEYS = frozenset((Access.KEY, Access.KEY_OR_EVENTS_URL))
"""Routes that any key may use."""

_CHECKS: Mapping[Access, Callable[[web.Request], object]] = {
    Access.KEY: caller_of,
    Access.ADMIN: check_admin,
}
"""What a request must pass before its handler runs; with `KEY_OR_EVENTS_URL` the handler looks at the token first."""


@dataclass(frozen=True, slots=True)
class Header:
    """A request or response header; `type` is any type that pydantic accepts."""

    name: str
    type: Any
    description: str
    required: bool = False


@dataclass(frozen=True, slots=True)
class Query:
    """A parameter of the query string."""

    name: str
    type: Any
    description: str


@dataclass(frozen=True, slots=True)
class Events:
    """A body of server-sent events.

    Attributes:
        description: how the stream runs.
        data: event names, and the types of their data; an unnamed event counts as a `message`.
        last_data: the last message, if it is not JSON.
    """

    description: str
    data: tuple[tuple[str, Any], ...]
    last_data: str | None = None


@dataclass(frozen=True, slots=True)
class ResponseSpec:
    """A successful response of a route. Its body is JSON of this type, bytes of a media type, events, or empty."""

    status: int
    description: str
    body: Any = None
    events: Events | None = None
    headers: tuple[Header, ...] = ()
    binary: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """The declaration of one route: method, path, handler, and everything that the document says about it.

    Attributes:
        handler: None if a shared part (health) adds the route, and it is only declared here.
        body: the request's type.
        form: the request's type, if it is sent as `multipart/form-data`.
        example: a valid body, to which the document adds a model if it has one.
        asks: what its model must answer; None if it queues no request.
        query: the type of the query string, or single parameters if the handler reads them itself.
        operation_id: for a second path of the same operation.
        error: the type of every error's body.
        errors: errors beyond those that `access` and `body` imply.
        batch: how batches run requests to this route; None if they may not.
        links: follow-up routes by name, with the response fields that go into their path.
    """

    method: str
    path: str
    handler: Handler | None
    tag: str
    summary: str
    access: Access = Access.KEY
    description: str = ""
    body: type[BaseModel] | None = None
    form: type[BaseModel] | None = None
    example: Mapping[str, Any] | None = None
    asks: ModelOperation | None = None
    query: type[BaseModel] | tuple[Query, ...] = ()
    headers: tuple[Header, ...] = ()
    responses: tuple[ResponseSpec, ...]
    operation_id: str = ""
    error: Any = ErrorResponse
    errors: tuple[type[RelaisError], ...] = ()
    links: Mapping[str, str] = field(default_factory=dict)
    batch: Endpoint | None = None

    @property
    def name(self) -> str:
        """Return the operation id: the one given, or else built from method and path."""
        if self.operation_id:
            return self.operation_id
        words = self.template.replace("{", "").replace("}", "")
        return "_".join(
            [self.method.lower(), *(word for word in words.strip("/").split("/") if word != "v1")]
        ).replace("-", "_")

    @property
    def template(self) -> str:
        """Return the path in OpenAPI's notation, without patterns of parameters."""
        return re.sub(r":[^{}]+(?=\})", "", self.path)

    @property
    def methods(self) -> tuple[str, ...]:
        """Return the methods; every GET except a stream also allows HEAD."""
        streams = any(response.events is not None for response in self.responses)
        return ("GET", "HEAD") if self.method == "GET" and not streams else (self.method,)

    def to_aiohttp(self, **options: Any) -> web.RouteDef:
        """Return the definition for `Application.add_routes`."""
        assert self.handler is not None
        handler = _guarded(self.handler, _CHECKS.get(self.access))
        if self.method != "GET":
            return web.route(self.method, self.path, handler, **options)
        return web.get(self.path, handler, allow_head="HEAD" in self.methods, **options)


def _guarded(handler: Handler, check: Callable[[web.Request], object] | None) -> Handler:
    if check is None:
        return handler

    async def guarded(request: web.Request) -> web.StreamResponse:
        check(request)
        return await handler(request)

    return guarded
