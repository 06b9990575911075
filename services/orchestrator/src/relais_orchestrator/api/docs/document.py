"""The OpenAPI 3.1 document, made of the declared routes and of pydantic's JSON schemas. Pure."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, Field, TypeAdapter
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaMode

from relais_common.jobs.errors import (
    Forbidden,
    InternalError,
    InvalidRequest,
    PayloadTooLarge,
    RelaisError,
    RequestTimeout,
    ServerBusy,
    TooManyBytes,
    Unauthorized,
    UnsupportedMediaType,
)
from relais_orchestrator.api.docs.rate_limits import RATE_LIMITS
from relais_orchestrator.api.route import Access, Answer, Events, Header, Query, Route
from relais_orchestrator.api.schemas.errors import ErrorResponse
from relais_orchestrator.http import request_ids

Json = dict[str, Any]

REQUEST_ID = Header(
    "X-Request-Id",
    str,
    "What to name when asking about this answer: the channel id where there is one, else what the request's own "
    "`X-Request-Id` said, else a new one.",
    required=True,
)
PROCESSING_MS = Header(
    "OpenAI-Processing-Ms",
    Annotated[int, Field(ge=0)],
    "Milliseconds until the headers left, the wait in the queue included.",
    required=True,
)
CLIENT_REQUEST_ID = Header(
    "X-Request-Id",
    str,
    f"A name for this request, for logs and answers; not used unless it matches `{request_ids.FORM}`.",
)
RETRY_AFTER = Header("Retry-After", Annotated[int, Field(ge=1)], "Seconds to wait.")
AUTHENTICATE = Header("WWW-Authenticate", str, "`Bearer`.", required=True)
HEADERS_OF = {401: (AUTHENTICATE,), 429: (RETRY_AFTER, *RATE_LIMITS), 503: (RETRY_AFTER,)}

PATH_PARAMETERS = {
    "channel_id": "What the request was accepted as.",
    "model": "A declared model; its name may have slashes.",
}
SECURITY: dict[Access, list[Json]] = {
    Access.OPEN: [],
    Access.KEY: [{"key": []}],
    Access.KEY_OR_EVENTS_URL: [{"key": []}, {"events_token": []}],
    Access.ADMIN: [{"key": []}],
}
SCHEMES = {
    "key": {"type": "http", "scheme": "bearer", "description": "Your key."},
    "events_token": {
        "type": "apiKey",
        "in": "query",
        "name": "token",
        "description": "The signed token of an `events_url`: it opens one channel's events, for a while.",
    },
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """What the document says of this deployment.

    Attributes:
        version: of the API.
        root_path: where a proxy serves it, without a slash at the end; empty at the root.
        models, embedding_models: the declared ones; examples name the first.
        any_token: a key is not asked for.
        max_deadline_s: the bound on `deadline_s`.
    """

    version: str
    root_path: str
    models: tuple[str, ...]
    embedding_models: tuple[str, ...]
    any_token: bool
    max_deadline_s: float


def build_document(routes: Iterable[Route], deployment: Deployment) -> Json:
    """The whole document, ready for JSON."""
    routes = tuple(routes)
    schemas = _Schemas(routes)
    paths: dict[str, Json] = {}
    for route in routes:
        paths.setdefault(route.template, {})[route.method.lower()] = _operation(
            route, schemas, deployment
        )
    components = schemas.components
    for schema in components.values():
        deadline = schema.get("properties", {}).get("deadline_s")
        if deadline is not None:
            _bound(deadline, deployment.max_deadline_s)
    for route in routes:
        if route.body is not None:
            schema = components[route.body.__name__]
            rules = [rule for rule in schema.get("allOf", ()) if "if" in rule]
            by_input = [rule for rule in rules if "input" in schema.get("properties", {})]
            for rule in by_input:
                embeds = "input" in rule["if"].get("required", ())
                _exclude(rule["then"], _others(deployment, embeds=embeds))
            if not by_input:
                _exclude(schema, _others(deployment, embeds=route.embeds))
    return {
        "openapi": "3.1.1",
        "info": {
            "title": "Relais",
            "version": deployment.version,
            "description": "Language models behind a queue: by Relais's own routes, and by OpenAI's.",
        },
        "servers": [{"url": deployment.root_path or "/"}],
        "tags": [{"name": tag} for tag in dict.fromkeys(route.tag for route in routes)],
        "paths": paths,
        "components": {
            "schemas": components,
            "headers": {one.name: _header(one) for one in _all_headers(routes)},
            "securitySchemes": SCHEMES,
        },
    }


def _bound(schema: Json, maximum: float) -> None:
    for one in schema.get("anyOf", [schema]):
        if one.get("type") == "number":
            one["maximum"] = maximum


def _operation(route: Route, schemas: _Schemas, deployment: Deployment) -> Json:
    operation: Json = {
        "operationId": route.name,
        "tags": [route.tag],
        "summary": route.summary,
        "security": [*SECURITY[route.access]],
    }
    if route.description:
        operation["description"] = route.description
    if deployment.any_token and operation["security"]:
        operation["security"].append({})
    operation["parameters"] = _parameters(route)
    if route.body is not None:
        media: Json = {"schema": schemas.of(route.body, "validation")}
        if route.example is not None:
            models = deployment.embedding_models if route.embeds else deployment.models
            if models:
                media["example"] = {"model": models[0], **route.example}
        operation["requestBody"] = {"required": True, "content": {"application/json": media}}
    responses = {str(answer.status): _answer(answer, route, schemas) for answer in route.answers}
    for status, errors in _errors_by_status(route).items():
        responses.setdefault(str(status), _refusal(status, errors, schemas))
    operation["responses"] = dict(sorted(responses.items()))
    return operation


def _others(deployment: Deployment, *, embeds: bool) -> tuple[str, ...]:
    return deployment.models if embeds else deployment.embedding_models


def _exclude(schema: Json, models: tuple[str, ...]) -> None:
    """Models of the other kind: a request that names one is refused."""
    if models:
        schema["properties"]["model"] = {
            **schema["properties"].get("model", {}),
            "not": {"enum": list(models)},
        }


def _parameters(route: Route) -> list[Json]:
    found = [
        {
            "name": name,
            "in": "path",
            "required": True,
            "description": description,
            "schema": {"type": "string", "minLength": 1},
        }
        for name, description in PATH_PARAMETERS.items()
        if f"{{{name}}}" in route.template
    ]
    if isinstance(route.query, tuple):
        found += [_parameter(one, "query") for one in route.query]
    else:
        found += _fields_as_parameters(route.query)
    found += [_parameter(one, "header") for one in (*route.headers, CLIENT_REQUEST_ID)]
    return found


def _parameter(one: Header | Query, where: str) -> Json:
    return {
        "name": one.name,
        "in": where,
        "description": one.description,
        "schema": _inline(one.type),
    }


def _fields_as_parameters(query: type[BaseModel]) -> list[Json]:
    schema = query.model_json_schema(schema_generator=_Plain)
    found = []
    for name, one in schema["properties"].items():
        description = one.pop("description", "")
        # A query string has no null: a parameter that is not given is left out.
        (plain,) = [each for each in one.get("anyOf", [one]) if each.get("type") != "null"]
        if "$ref" in plain:
            plain = schema["$defs"][plain["$ref"].rpartition("/")[2]]
        found.append({"name": name, "in": "query", "description": description, "schema": plain})
    return found


def _inline(kind: Any) -> Json:
    return TypeAdapter[Any](kind).json_schema(schema_generator=_Plain)


def _answer(answer: Answer, route: Route, schemas: _Schemas) -> Json:
    content: Json = {}
    if answer.body is not None:
        content["application/json"] = {"schema": schemas.of(answer.body, "serialization")}
    if answer.binary is not None:
        content[answer.binary] = {}
    if answer.events is not None:
        content["text/event-stream"] = _events(answer.events, schemas)
    response: Json = {
        "description": answer.description,
        "headers": _headers((*answer.headers, REQUEST_ID, PROCESSING_MS)),
    }
    if content:
        response["content"] = content
    if route.links:
        response["links"] = {
            name: {"operationId": name, "parameters": {field: f"$response.body#/{field}"}}
            for name, field in route.links.items()
        }
    return response


def _events(events: Events, schemas: _Schemas) -> Json:
    # As OpenAPI 3.2 describes one event of a stream (there under itemSchema); 3.1 leaves open what a schema means here.
    def event(name: str, kind: Any) -> Json:
        data = {
            "type": "string",
            "contentMediaType": "application/json",
            "contentSchema": schemas.of(kind, "serialization"),
        }
        return {
            "title": name,
            "type": "object",
            "required": ["event", "data"],
            "properties": {"event": {"const": name}, "id": {"type": "string"}, "data": data},
        }

    described = [event(name, kind) for name, kind in events.data]
    if events.last_data is not None:
        described.append(
            {
                "type": "object",
                "required": ["data"],
                "properties": {"data": {"const": events.last_data}},
            }
        )
    return {"schema": {"description": events.description, "anyOf": described}}


def _refusal(status: int, errors: list[type[RelaisError]], schemas: _Schemas) -> Json:
    lines = [f"- `{error.code}`: {inspect.getdoc(error)}" for error in errors]
    return {
        "description": "\n".join(lines),
        "headers": _headers((*HEADERS_OF.get(status, ()), REQUEST_ID, PROCESSING_MS)),
        "content": {"application/json": {"schema": schemas.of(ErrorResponse, "serialization")}},
    }


def _header(header: Header) -> Json:
    return {
        "description": header.description,
        "required": header.required,
        "schema": _inline(header.type),
    }


def _headers(headers: Iterable[Header]) -> Json:
    return {header.name: {"$ref": f"#/components/headers/{header.name}"} for header in headers}


def _all_headers(routes: Iterable[Route]) -> Iterable[Header]:
    yield from (REQUEST_ID, PROCESSING_MS)
    for several in HEADERS_OF.values():
        yield from several
    for route in routes:
        for answer in route.answers:
            yield from answer.headers


def _errors_by_status(route: Route) -> Mapping[int, list[type[RelaisError]]]:
    errors: list[type[RelaisError]] = [*route.errors, InternalError]
    if route.access is not Access.OPEN:
        errors.append(Unauthorized)
    if route.access is Access.ADMIN:
        errors.append(Forbidden)
    if route.body is not None:
        errors += [InvalidRequest, RequestTimeout, PayloadTooLarge, UnsupportedMediaType]
        errors += [TooManyBytes, ServerBusy]
    found: dict[int, list[type[RelaisError]]] = {}
    for error in dict.fromkeys(errors):
        found.setdefault(error.status, []).append(error)
    return found


class _Plain(GenerateJsonSchema):
    """Without a title on every field, which would repeat its name."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


class _Schemas:
    """JSON schemas of all bodies that the routes name, made in one go so that they share their parts."""

    def __init__(self, routes: Iterable[Route]) -> None:
        wanted = [
            (kind, mode, TypeAdapter[Any](kind)) for kind, mode in dict.fromkeys(_bodies(routes))
        ]
        self._of, definitions = TypeAdapter.json_schemas(
            wanted, ref_template="#/components/schemas/{model}", schema_generator=_Plain
        )
        self.components: dict[str, Json] = definitions.get("$defs", {})

    def of(self, kind: Any, mode: JsonSchemaMode) -> Json:
        return dict(self._of[kind, mode])


def _bodies(routes: Iterable[Route]) -> Iterable[tuple[Any, JsonSchemaMode]]:
    yield ErrorResponse, "serialization"
    for route in routes:
        if route.body is not None:
            yield route.body, "validation"
        for answer in route.answers:
            if answer.body is not None:
                yield answer.body, "serialization"
            if answer.events is not None:
                for _, kind in answer.events.data:
                    yield kind, "serialization"
