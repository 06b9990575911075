"""Reading a request's body and query: bounded, of the right type, and errors that name the field."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from aiohttp import web
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails, from_json, to_json

from relais_common.errors import InvalidRequest, PayloadTooLarge, UnsupportedMediaType
from relais_orchestrator.app_keys import PARTS
from relais_orchestrator.schemas import unsupported

Schema = TypeVar("Schema", bound=BaseModel)

JSON_TYPE = "application/json"
MAX_PARAM_LENGTH = 200
"""A client may name a field as it likes; an answer need not repeat all of it."""

_CODES = {
    "missing": "missing_required_parameter",
    "extra_forbidden": "unknown_parameter",
    "literal_error": unsupported.VALUE,
    unsupported.PARAMETER: unsupported.PARAMETER,
    unsupported.VALUE: unsupported.VALUE,
}
_MESSAGES = {
    "missing": "this field is required",
    "extra_forbidden": "this field is unknown",
    # pydantic's own words would repeat what was sent.
    "union_tag_invalid": "this type is unknown or not supported",
}


async def read_body(request: web.Request) -> bytes:
    """The raw body. The request does not keep it, as `request.read()` would have it do.

    Raises:
        PayloadTooLarge: over the application's bound; nothing past it is read.
        UnsupportedMediaType: it says that it is something else than JSON.
        InvalidRequest: its bytes are not what its headers say.
    """
    # Not by `request.content_type`, which keeps what it parses.
    stated = request.headers.get("Content-Type", JSON_TYPE).partition(";")[0].strip().lower()
    if stated not in (JSON_TYPE, "application/octet-stream"):
        raise UnsupportedMediaType("send the body as Content-Type: application/json")
    limit = request.app[PARTS].settings.limits.max_body_bytes
    body = bytearray()
    try:
        while chunk := await request.content.readany():
            body += chunk
            if len(body) > limit:
                raise PayloadTooLarge(f"the body is larger than {limit} bytes")
    except web.RequestPayloadError:
        raise InvalidRequest(
            "the body is cut, or not in its Content-Encoding or Transfer-Encoding",
            code="invalid_body",
        ) from None
    return bytes(body)


def parse_body(schema: type[Schema], body: bytes) -> Schema:
    """Raises InvalidRequest, which names the first field at fault."""
    try:
        return schema.model_validate_json(body)
    except ValidationError as error:
        # An integer all the same: JSON knows no difference between 5 and 5.0.
        if any(one["type"] == "int_type" and _is_whole(one["input"]) for one in _errors(error)):
            return parse_body(schema, to_json(_with_integers(from_json(body))))
        errors = _errors(error)
        if errors[0]["type"] == "json_invalid":
            deep = "recursion limit" in errors[0]["msg"]
            problem = "nested too deeply" if deep else "not valid JSON"
            raise InvalidRequest(f"the body is {problem}", code="invalid_json") from None
        raise _refusal(errors, from_json(body)) from None


def _is_whole(value: Any) -> bool:
    return isinstance(value, float) and value.is_integer() and abs(value) < 2**53


def _with_integers(value: Any) -> Any:
    match value:
        case float() if _is_whole(value):
            return int(value)
        case list():
            return [_with_integers(one) for one in value]
        case dict():
            return {name: _with_integers(one) for name, one in value.items()}
    return value


def parse_query(schema: type[Schema], query: Mapping[str, str]) -> Schema:
    """Raises InvalidRequest, which names the first parameter at fault."""
    content = dict(query)
    try:
        return schema.model_validate_strings(content)
    except ValidationError as error:
        raise _refusal(_errors(error), content) from None


def _errors(error: ValidationError) -> list[ErrorDetails]:
    return error.errors(include_url=False, include_context=False)


def _refusal(errors: list[ErrorDetails], content: Any) -> InvalidRequest:
    located = [(_param(one, content), one) for one in errors]
    param, error = max(located, key=_relevance)
    kind = error["type"]
    param = param[:MAX_PARAM_LENGTH]
    message = _MESSAGES.get(kind, error["msg"])
    code = _CODES.get(kind, "invalid_type" if _is_of_type(error) else "invalid_value")
    return InvalidRequest(
        f"{param}: {message}" if param else message, param=param or None, code=code
    )


def _relevance(located: tuple[str, ErrorDetails]) -> tuple[bool, int]:
    """Of a union's many complaints, the one that was meant: the type was right, or else it got deepest."""
    param, error = located
    return not _is_of_type(error), param.count(".")


def _is_of_type(error: ErrorDetails) -> bool:
    return error["type"].endswith(("_type", "_from_float"))


def _param(error: ErrorDetails, content: Any) -> str:
    """The dotted path of the field, without the type names that a union leaves in a location."""
    here = content
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
