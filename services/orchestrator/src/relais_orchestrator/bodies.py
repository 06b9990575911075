"""Reading a request's body: bounded, JSON, of the right type, and errors that name the field."""

from __future__ import annotations

from typing import Any, TypeVar

import orjson
from aiohttp import web
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from relais_common.errors import InvalidRequest, PayloadTooLarge, UnsupportedMediaType
from relais_orchestrator.app_keys import PARTS

Schema = TypeVar("Schema", bound=BaseModel)

_CODES = {
    "missing": "missing_required_parameter",
    "extra_forbidden": "unknown_parameter",
    "json_invalid": "invalid_json",
}


async def read_body(request: web.Request) -> bytes:
    """The raw body.

    Raises:
        PayloadTooLarge: over the application's bound; nothing past it is read.
        UnsupportedMediaType: it says that it is something else than JSON.
    """
    if request.content_type not in ("application/json", "application/octet-stream"):
        raise UnsupportedMediaType("send the body as Content-Type: application/json")
    try:
        return await request.read()
    except web.HTTPRequestEntityTooLarge:
        limit = request.app[PARTS].settings.limits.max_body_bytes
        raise PayloadTooLarge(f"the body is larger than {limit} bytes") from None


def parse_body(schema: type[Schema], body: bytes) -> Schema:
    """Raises InvalidRequest, which names the first field at fault."""
    try:
        return schema.model_validate_json(body)
    except ValidationError as error:
        raise _refusal(error.errors(include_url=False, include_context=False), body) from None


def _refusal(errors: list[ErrorDetails], body: bytes) -> InvalidRequest:
    # Of a union's many complaints, the one that got deepest into the body is the one that was meant.
    located = [(_param(one, body), one) for one in errors]
    param, error = max(located, key=lambda item: item[0].count("."))
    kind = error["type"]
    if kind == "json_invalid":
        return InvalidRequest("the body is not valid JSON", code="invalid_json")
    message = error["msg"]
    if kind == "missing":
        message = "this field is required"
    elif kind == "extra_forbidden":
        message = "this field is unknown or not supported"
    code = _CODES.get(kind, "invalid_type" if kind.endswith("_type") else "invalid_value")
    return InvalidRequest(
        f"{param}: {message}" if param else message, param=param or None, code=code
    )


def _param(error: ErrorDetails, body: bytes) -> str:
    """The dotted path of the field, without the type names that a union leaves in a location."""
    try:
        here: Any = orjson.loads(body)
    except orjson.JSONDecodeError:
        return ""
    path: list[str] = []
    location = error["loc"]
    for depth, part in enumerate(location):
        last = depth == len(location) - 1
        in_object = isinstance(here, dict) and part in here
        in_array = isinstance(here, list) and isinstance(part, int) and part < len(here)
        if in_object or in_array:
            here = here[part]
        elif not (last and error["type"] == "missing"):
            continue
        path.append(str(part))
    return ".".join(path)
