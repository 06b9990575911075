"""Checks every response that a test reads against the OpenAPI document."""

from __future__ import annotations

import json
import re
from functools import cache
from typing import Any

import aiohttp
from jsonschema import Draft202012Validator

from relais_common.jobs.job import Operation
from relais_orchestrator.api.docs.components import Deployment
from relais_orchestrator.api.docs.document import build_document
from relais_orchestrator.api.route import Route
from relais_orchestrator.api.table import ROUTES
from relais_testing.builders import MODEL

DEPLOYMENT = Deployment(
    version="1",
    root_path="",
    models=(
        (MODEL, Operation.CHAT),
        ("embedder", Operation.EMBEDDINGS),
        ("reranker", Operation.RERANK),
        ("classifier", Operation.CLASSIFY),
    ),
    any_token=False,
    ignore_unknown=False,
    max_deadline_s=86_400,
)
OUTSIDE = re.compile(r"/|/docs(/.*)?")
"""Pages for people, and redirects to them."""


@cache
def document() -> dict[str, Any]:
    return build_document(ROUTES, DEPLOYMENT)


@cache
def _validator(reference: str) -> Draft202012Validator:
    components = document()["components"]
    return Draft202012Validator({**json.loads(reference), "components": components})


def check_json(schema: dict[str, Any], value: Any) -> None:
    """Validate a value. Raises jsonschema's ValidationError; the schema may refer to the document."""
    _validator(json.dumps(schema)).validate(value)


@cache
def _patterns() -> list[tuple[re.Pattern[str], Route]]:
    parameter = re.compile(r"\{\w+(?::([^{}]+))?\}")
    return [
        (re.compile(parameter.sub(lambda one: one[1] or "[^/]+", route.path)), route)
        for route in ROUTES
    ]


def documented_response(method: str, path: str, status: int) -> dict[str, Any] | None:
    """Return what the document says about this response; None if no route has the path or method."""
    fitting = [route for pattern, route in _patterns() if pattern.fullmatch(path)]
    for route in fitting:
        if method in route.methods:
            responses = document()["paths"][route.template][route.method.lower()]["responses"]
            assert str(status) in responses, f"{method} {path} answers {status}: not documented"
            response: dict[str, Any] = responses[str(status)]
            return response
    assert status == (405 if fitting else 404), f"{method} {path} answers {status}"
    return None


class DocumentedResponse(aiohttp.ClientResponse):
    """Fails the test if a status, header, content type or body contradicts the document."""

    _said: dict[str, Any] | None = None

    async def start(self, connection: Any) -> aiohttp.ClientResponse:
        await super().start(connection)
        preflight = self.method == "OPTIONS" and self.status != 405  # between browser and server
        if OUTSIDE.fullmatch(self.url.raw_path) or preflight:
            return self
        self._said = documented_response(self.method, self.url.raw_path, self.status)
        assert self.headers.get("X-Request-Id")
        if self._said is not None:
            headers = document()["components"]["headers"]
            for name in self._said["headers"]:
                assert name in self.headers or not headers[name]["required"], name
            content = self._said.get("content", {})
            if content and self.method != "HEAD":
                assert self.content_type in content, self.content_type
        return self

    async def read(self) -> bytes:
        body = await super().read()
        if self._said is not None and self.content_type == "application/json" and body:
            check_json(self._said["content"]["application/json"]["schema"], json.loads(body))
        return body
