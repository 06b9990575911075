"""One route as the OpenAPI document describes it."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from typing import Annotated, Any

from pydantic import BaseModel, Field

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
from relais_orchestrator.api.docs.components import Deployment, Json, Plain, Schemas, inline_schema
from relais_orchestrator.api.docs.rate_limits import RATE_LIMITS
from relais_orchestrator.api.route import Access, Events, Header, Query, ResponseSpec, Route
from relais_orchestrator.http import ignored_fields, request_ids

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
IGNORED_FIELDS = Header(
    ignored_fields.HEADER,
    str,
    f"Unknown fields of the body, if they are ignored here (`UNKNOWN_FIELDS`): up to {ignored_fields.MAX_NAMES}, and "
    f"`{ignored_fields.MORE}` for more.",
)
RETRY_AFTER = Header("Retry-After", Annotated[int, Field(ge=1)], "Seconds to wait.")
AUTHENTICATE = Header("WWW-Authenticate", str, "`Bearer`.", required=True)
HEADERS_OF = {401: (AUTHENTICATE,), 429: (RETRY_AFTER, *RATE_LIMITS), 503: (RETRY_AFTER,)}

PATH_PARAMETERS = {
    "channel_id": "What the request was accepted as.",
    "model": "A declared model; its name may have slashes.",
    "response_id": "What the response was created as.",
    "batch_id": "What the batch was created as.",
    "file_id": "What the file was uploaded as, or what its batch names.",
}
SECURITY: dict[Access, list[Json]] = {
    Access.OPEN: [],
    Access.KEY: [{"key": []}, {"api_key": []}],
    Access.KEY_OR_EVENTS_URL: [{"key": []}, {"api_key": []}, {"events_token": []}],
    Access.ADMIN: [{"key": []}, {"api_key": []}],
}


def describe(route: Route, schemas: Schemas, deployment: Deployment) -> Json:
    """The route's operation object."""
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
            models = deployment.models_for(route.asks)
            if "model" not in route.body.model_fields:
                media["example"] = {**route.example}
            elif models:
                media["example"] = {"model": models[0], **route.example}
        operation["requestBody"] = {"required": True, "content": {"application/json": media}}
    if route.form is not None:
        form = {"multipart/form-data": {"schema": schemas.of(route.form, "validation")}}
        operation["requestBody"] = {"required": True, "content": form}
    responses = {
        str(response.status): _response(response, route, schemas) for response in route.responses
    }
    for status, errors in _errors_by_status(route).items():
        responses.setdefault(str(status), _refusal(route, status, errors, schemas))
    operation["responses"] = dict(sorted(responses.items()))
    return operation


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
        "schema": inline_schema(one.type),
    }


def _fields_as_parameters(query: type[BaseModel]) -> list[Json]:
    schema = query.model_json_schema(schema_generator=Plain)
    found = []
    for name, one in schema["properties"].items():
        description = one.pop("description", "")
        # A query string has no null: a parameter that is not given is left out.
        (plain,) = [each for each in one.get("anyOf", [one]) if each.get("type") != "null"]
        if "$ref" in plain:
            plain = schema["$defs"][plain["$ref"].rpartition("/")[2]]
        found.append({"name": name, "in": "query", "description": description, "schema": plain})
    return found


def _response(spec: ResponseSpec, route: Route, schemas: Schemas) -> Json:
    content: Json = {}
    if spec.body is not None:
        content["application/json"] = {"schema": schemas.of(spec.body, "serialization")}
    if spec.binary is not None:
        content[spec.binary] = {}
    if spec.events is not None:
        content["text/event-stream"] = _events(spec.events, schemas)
    response: Json = {
        "description": spec.description,
        "headers": _headers(
            (
                *spec.headers,
                *((IGNORED_FIELDS,) if route.body is not None else ()),
                *(REQUEST_ID, PROCESSING_MS),
            )
        ),
    }
    if content:
        response["content"] = content
    if route.links:
        response["links"] = {
            name: {"operationId": name, "parameters": {field: f"$response.body#/{field}"}}
            for name, field in route.links.items()
        }
    return response


def _events(events: Events, schemas: Schemas) -> Json:
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


def _refusal(route: Route, status: int, errors: list[type[RelaisError]], schemas: Schemas) -> Json:
    lines = [f"- `{error.code}`: {inspect.getdoc(error)}" for error in errors]
    return {
        "description": "\n".join(lines),
        "headers": _headers((*HEADERS_OF.get(status, ()), REQUEST_ID, PROCESSING_MS)),
        "content": {"application/json": {"schema": schemas.of(route.error, "serialization")}},
    }


def _headers(headers: Iterable[Header]) -> Json:
    return {header.name: {"$ref": f"#/components/headers/{header.name}"} for header in headers}


def _errors_by_status(route: Route) -> Mapping[int, list[type[RelaisError]]]:
    errors: list[type[RelaisError]] = [*route.errors, InternalError]
    if route.access is not Access.OPEN:
        errors.append(Unauthorized)
    if route.access is Access.ADMIN:
        errors.append(Forbidden)
    if route.body is not None or route.form is not None:
        errors += [InvalidRequest, RequestTimeout, PayloadTooLarge, UnsupportedMediaType]
        errors += [TooManyBytes, ServerBusy]
    found: dict[int, list[type[RelaisError]]] = {}
    for error in dict.fromkeys(errors):
        found.setdefault(error.status, []).append(error)
    return found
