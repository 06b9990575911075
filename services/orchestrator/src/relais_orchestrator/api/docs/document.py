"""The OpenAPI 3.1 document, made of the declared routes and of pydantic's JSON schemas. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from relais_common.jobs.job import ModelOperation, Operation
from relais_orchestrator.api.docs.components import (
    Deployment,
    Json,
    bodies_of,
    filled,
    inline_schema,
    schemas_of,
)
from relais_orchestrator.api.docs.operations import (
    HEADERS_OF,
    IGNORED_FIELDS,
    PROCESSING_MS,
    REQUEST_ID,
    describe,
)
from relais_orchestrator.api.route import Header, Route

SCHEMES = {
    "key": {"type": "http", "scheme": "bearer", "description": "Your key."},
    "api_key": {
        "type": "apiKey",
        "in": "header",
        "name": "X-Api-Key",
        "description": "The same key, as Anthropic's clients send it.",
    },
    "events_token": {
        "type": "apiKey",
        "in": "query",
        "name": "token",
        "description": "The signed token of an `events_url`: it opens one channel's events, for a while.",
    },
}


def build_document(routes: Iterable[Route], deployment: Deployment) -> Json:
    """The whole document, ready for JSON."""
    routes = tuple(routes)
    schemas = schemas_of(bodies_of(routes), ignore_unknown=deployment.ignore_unknown)
    paths: dict[str, Json] = {}
    for route in routes:
        paths.setdefault(route.template, {})[route.method.lower()] = describe(
            route, schemas, deployment
        )
    return {
        "openapi": "3.1.1",
        "info": {
            "title": "Relais",
            "version": deployment.version,
            "description": "Language models behind a queue: by Relais's own routes, and by OpenAI's and Anthropic's.",
            "x-relais-first-request": _first_request(deployment),
        },
        "servers": [{"url": deployment.root_path or "/"}],
        "tags": [{"name": tag} for tag in dict.fromkeys(route.tag for route in routes)],
        "paths": paths,
        "components": {
            "schemas": filled(schemas.components, deployment),
            "headers": {one.name: _header(one) for one in _all_headers(routes)},
            "securitySchemes": SCHEMES,
        },
    }


_FIRST_REQUESTS: dict[ModelOperation, tuple[str, Json]] = {
    Operation.CHAT: (
        "/v1/chat/completions",
        {"stream": True, "messages": [{"role": "user", "content": "Bonjour"}]},
    ),
    Operation.EMBEDDINGS: ("/v1/embeddings", {"input": "Bonjour"}),
    Operation.RERANK: ("/v1/rerank", {"query": "Bonjour", "documents": ["Salut"]}),
    Operation.CLASSIFY: ("/v1/classify", {"input": "Bonjour"}),
}


def _first_request(deployment: Deployment) -> Json:
    """What `/docs` shows to begin with."""
    kind = next(one for one in _FIRST_REQUESTS if deployment.models_for(one))
    path, fields = _FIRST_REQUESTS[kind]
    body = {"model": deployment.models_for(kind)[0], **fields}
    return {"path": path, "body": body, "any_key": deployment.any_token}


def _header(header: Header) -> Json:
    return {
        "description": header.description,
        "required": header.required,
        "schema": inline_schema(header.type),
    }


def _all_headers(routes: Iterable[Route]) -> Iterable[Header]:
    yield from (REQUEST_ID, PROCESSING_MS, IGNORED_FIELDS)
    for several in HEADERS_OF.values():
        yield from several
    for route in routes:
        for response in route.responses:
            yield from response.headers
