"""Parses bytes into a schema's object, with bounded work and an error that names the first invalid field. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Annotated, Any, TypeVar

import msgspec
from multidict import MultiMapping
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from relais_common.jobs.errors import InvalidRequest, PayloadTooLarge
from relais_orchestrator.api.schemas import unsupported
from relais_orchestrator.api.schemas.branches import MARK, is_branch, is_tag
from relais_orchestrator.api.schemas.messages import MAX_MODEL_NAME
from relais_orchestrator.api.schemas.unsupported import word

Schema = TypeVar("Schema", bound=BaseModel)

MAX_PARAM_LENGTH = 200
"""Length to which field names chosen by clients are cut in responses."""

MAX_STRINGS = 65_536
"""Bound on names and texts in one body."""

MAX_CONTAINERS = 65_536
"""Bound on lists and objects in one body; the parser needs about 300 bytes for each."""

MAX_VALUES = 1_000_000
"""Bound on all values in one body's lists and objects: as many as a prompt of ids may have."""

_ERRORS_READ = 16
"""Bound on errors: each unknown field is one. Errors of one field's union come together, and are fewer."""

_UNKNOWN = "extra_forbidden"
_CODES = {
    "missing": "missing_required_parameter",
    "union_tag_not_found": "missing_required_parameter",
    _UNKNOWN: "unknown_parameter",
    "literal_error": unsupported.VALUE,
    "union_tag_invalid": unsupported.VALUE,
    unsupported.PARAMETER: unsupported.PARAMETER,
    unsupported.VALUE: unsupported.VALUE,
}
_MESSAGES = {
    "missing": "this field is required",
    _UNKNOWN: "this field is unknown",
    "union_tag_not_found": "this field is required",
}
_FORMATS = ("text", "json_object", "json_schema")
"""If `response_format`, or `text.format` of responses, is invalid, its type is part of the location."""

_BEFORE_FORMATS = (("response_format",), ("format",))

_SHOULD_BE = "Input should be a valid "
"""How pydantic's messages about types begin."""

_OF_TAGS = ("union_tag_invalid", "union_tag_not_found")
"""What is wrong with an object of an unknown type, or of none, is its type."""

_KEY = "[key]"
"""Follows a mapping's key in a location if the key is invalid, and not its value."""


class _Named(msgspec.Struct):
    # Of a field that is given twice the last one counts, whatever the first one is.
    model: msgspec.Raw


_NAMED = msgspec.json.Decoder(_Named)
_NAME = msgspec.json.Decoder(Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_MODEL_NAME)])


def model_of(body: bytes) -> str | None:
    """Return the model that a body names, without parsing the rest; None if validation will refuse it."""
    try:
        name: str = _NAME.decode(_NAMED.decode(body).model)
        return name
    except (msgspec.DecodeError, ValueError, RecursionError):
        return None


def parse_body(schema: type[Schema], body: bytes) -> Schema:
    """Parse and validate the body.

    Raises:
        InvalidRequest: names the first invalid field.
        PayloadTooLarge: the body has more parts than any request needs.
    """
    _check_parts(body)
    try:
        return schema.model_validate_json(body)
    except ValidationError as error:
        raise refusal(error) from None


def parse_leniently(schema: type[Schema], body: bytes) -> tuple[Schema, tuple[str, ...]]:
    """Parse and validate the body without its unknown fields, and return their paths, without places in lists.

    Raises:
        InvalidRequest, PayloadTooLarge: as `parse_body`.
    """
    _check_parts(body)
    try:
        return schema.model_validate_json(body), ()
    except ValidationError as error:
        kinds = {one["type"] for one in error.errors(include_url=False, include_input=False)}
        if _UNKNOWN not in kinds:
            raise refusal(error) from None
    try:
        parsed = schema.model_validate_json(body, extra="allow")
    except ValidationError as error:
        raise refusal(error) from None
    return parsed, tuple(dict.fromkeys(_taken_out(parsed)))


def _taken_out(value: Any, path: str = "") -> Iterator[str]:
    """Take the unknown fields out of a parsed body, and yield their paths."""
    if isinstance(value, BaseModel):
        unknown = value.model_extra or {}
        yield from (path + name for name in unknown)
        unknown.clear()
        for name, inner in value:
            yield from _taken_out(inner, f"{path}{name}.")
    elif isinstance(value, list) and value and isinstance(value[0], BaseModel):
        # Lists of a million numbers are not walked.
        for one in value:
            yield from _taken_out(one, path)


def parse_query(
    schema: type[Schema], query: MultiMapping[str], *, lists: Collection[str] = ()
) -> Schema:
    """Parse and validate the query string.

    Args:
        lists: parameters that it may say several times; they are joined by commas.

    Raises:
        InvalidRequest: names the first invalid parameter.
    """
    given = {name: query.getall(name) for name in query}
    for name, values in given.items():
        if len(values) > 1 and name not in lists:
            param = name[:MAX_PARAM_LENGTH]
            raise InvalidRequest(
                f"{param}: given more than once", param=param, code="invalid_value"
            )
    try:
        return schema.model_validate_strings(
            {name: ",".join(values) for name, values in given.items()}
        )
    except ValidationError as error:
        raise refusal(error) from None


def _check_parts(body: bytes) -> None:
    """Bound the objects that a parser would build by counting bytes; every count is one pass in C."""
    if body.count(b'"') <= 2 * MAX_STRINGS and _fits(body):
        return
    # They may also occur inside texts. Without escapes, every second piece between quotes is a text.
    plain = body.replace(rb"\\", b"").replace(rb"\"", b"") if b"\\" in body else body
    if plain.count(b'"') > 2 * MAX_STRINGS:
        raise PayloadTooLarge(f"the body has more than {MAX_STRINGS:,} names and texts")
    if not _fits(b"".join(plain.split(b'"')[::2])):
        raise PayloadTooLarge(
            f"the body has more than {MAX_CONTAINERS:,} lists and objects, or {MAX_VALUES:,} values"
        )


def _fits(text: bytes) -> bool:
    containers = text.count(b"[") + text.count(b"{")
    return containers <= MAX_CONTAINERS and text.count(b",") <= MAX_VALUES


def refusal(error: ValidationError, *, field: str = "") -> InvalidRequest:
    """Return the refusal that names the first invalid field.

    Args:
        field: of a form, if it was parsed by itself; fields in it are named `field[name]`.
    """
    # Without inputs, which would be converted to Python objects.
    errors = error.errors(include_url=False, include_input=False)
    if errors[0]["type"] == "json_invalid":
        deep = "recursion limit" in errors[0]["msg"]
        problem = "nested too deeply" if deep else "not valid JSON"
        what = field or "the body"
        return InvalidRequest(f"{what} is {problem}", param=field or None, code="invalid_json")
    first = _path(errors[0])[:1]
    one = max(errors[:_ERRORS_READ], key=lambda error: _relevance(error, first))
    path = _path(one)
    param = field + "".join(f"[{part}]" for part in path) if field else ".".join(path)
    param = param[:MAX_PARAM_LENGTH]
    kind = one["type"]
    message = _MESSAGES.get(kind) or _message(one, errors)
    code = _CODES.get(kind, "invalid_type" if _is_of_type(one) else "invalid_value")
    return InvalidRequest(
        f"{param}: {message}" if param else message, param=param or None, code=code
    )


def _message(one: ErrorDetails, errors: list[ErrorDetails]) -> str:
    """Return what is wrong; if a field may be of several types, with all of them."""
    if one["type"] == "union_tag_invalid":
        # Pydantic's message would repeat any input.
        tag = word(one["ctx"]["tag"].removeprefix(MARK))
        return f"{'this type' if tag is None else f'type {tag}'} is unknown or not supported"
    if not _is_of_type(one):
        return one["msg"]
    path = _path(one)
    alike = [
        other["msg"]
        for other in errors[:_ERRORS_READ]
        if _is_of_type(other) and _path(other) == path
    ]
    begins = [
        msg.removeprefix(_SHOULD_BE) for msg in dict.fromkeys(alike) if msg.startswith(_SHOULD_BE)
    ]
    return _SHOULD_BE + " or ".join(begins) if len(begins) > 1 else one["msg"]


def _relevance(error: ErrorDetails, first: list[str]) -> tuple[bool, int, list[int]]:
    """Rank a union's errors: the branch that was meant has the right type, or else got deepest, or furthest in a list.

    Args:
        first: the field of the first error; others are not compared by places in lists.
    """
    path = _path(error)
    places = [part for part in error["loc"] if isinstance(part, int)]
    return not _is_of_type(error), len(path), places if path[:1] == first else []


def _is_of_type(error: ErrorDetails) -> bool:
    return error["type"].endswith(("_type", "_from_float"))


def _path(error: ErrorDetails) -> list[str]:
    """Return the path of the field, without the branch names of unions."""
    location = error["loc"]
    if len(location) > 1 and location[-1] == _KEY:
        location = location[:-1]
    path = [
        str(part)
        for place, part in enumerate(location)
        if not (
            is_branch(part)
            or is_tag(location[:place])
            or (location[place - 1 : place] in _BEFORE_FORMATS and part in _FORMATS)
        )
    ]
    return [*path, "type"] if error["type"] in _OF_TAGS else path
