"""The declaration of a route: the table of routes is made of these, and so is the document."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from aiohttp import web
from aiohttp.typedefs import Handler
from pydantic import BaseModel

from relais_common.jobs.errors import RelaisError


class Access(Enum):
    """What opens a route."""

    OPEN = "anyone"
    KEY = "a key"
    KEY_OR_EVENTS_URL = "a key, or the token in an `events_url`"
    ADMIN = "a key with admin rights"


@dataclass(frozen=True, slots=True)
class Header:
    """A header of a request or of an answer; its type is anything that pydantic takes."""

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
        data: names of events, and the types of their data; an event without a name counts as a `message`.
        last_data: what the last message says, where it is no JSON.
    """

    description: str
    data: tuple[tuple[str, Any], ...]
    last_data: str | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """One way in which a request may end well. Its body is JSON of this type, bytes of another, events, or nothing."""

    status: int
    description: str
    body: Any = None
    events: Events | None = None
    headers: tuple[Header, ...] = ()
    binary: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """A method and a path, who answers, and everything that a client may know of it.

    Attributes:
        handler: None where the route is added by a shared part (health), and declared here only.
        body: the request's type.
        example: a body that works as it is; the document adds a model.
        embeds: the model must be an embedding model.
        query: the type of the query string, or single parameters where the handler reads them itself.
        errors: what can go wrong beyond what `access` and `body` bring with them.
        links: routes that follow, by name, with the fields of the answer that go into their path.
    """

    method: str
    path: str
    handler: Handler | None
    tag: str
    summary: str
    access: Access = Access.KEY
    description: str = ""
    body: type[BaseModel] | None = None
    example: Mapping[str, Any] | None = None
    embeds: bool = False
    query: type[BaseModel] | tuple[Query, ...] = ()
    headers: tuple[Header, ...] = ()
    answers: tuple[Answer, ...]
    errors: tuple[type[RelaisError], ...] = ()
    links: Mapping[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """A name for programs, from the method and the path."""
        words = self.path.replace("{", "").replace("}", "").replace(":.+", "")
        return "_".join(
            [self.method.lower(), *(word for word in words.strip("/").split("/") if word != "v1")]
        ).replace("-", "_")

    @property
    def template(self) -> str:
        """The path as OpenAPI writes it."""
        return self.path.replace(":.+", "")

    @property
    def methods(self) -> tuple[str, ...]:
        """HEAD comes with every GET that is no stream."""
        streams = any(answer.events is not None for answer in self.answers)
        return ("GET", "HEAD") if self.method == "GET" and not streams else (self.method,)

    def to_aiohttp(self, **options: Any) -> web.RouteDef:
        """For `Application.add_routes`, with options of aiohttp."""
        assert self.handler is not None
        if self.method != "GET":
            return web.route(self.method, self.path, self.handler, **options)
        return web.get(self.path, self.handler, allow_head="HEAD" in self.methods, **options)
