"""Bounds on structured output specifications.

They are cheap to check for any input. A worker measures what a specification costs to follow. The
bounds for JSON schemas are close to OpenAI's.
"""

from __future__ import annotations

import re
from typing import Any

import orjson
from pydantic_core import PydanticCustomError

MAX_SCHEMA_BYTES = 131_072
MAX_VALUES = 10_000
MAX_DEPTH = 64
MAX_ALTERNATIVES = 1_000
MAX_ENUM_VALUES = 2_000
MAX_REFERENCES = 1_000
MAX_REPETITIONS = 65_536
MAX_REGEX = 1_024
MAX_REGEX_REPETITIONS = 1_000
MAX_GROUP_DEPTH = 32
MAX_RULES = 500

_COUNTS = frozenset(
    f"{end}{what}"
    for end in ("min", "max")
    for what in ("Items", "Length", "Properties", "Contains")
)
_ALTERNATIVES = frozenset(("anyOf", "oneOf", "allOf", "prefixItems"))
_TYPES = ("object", "array", "string", "number", "integer", "boolean", "null")
_SCHEMAS_BY_NAME = frozenset(("properties", "patternProperties", "$defs", "definitions"))
_SUBSCHEMAS = frozenset(("items", "additionalProperties", "not", "contains"))
_KINDS: tuple[tuple[frozenset[str], type, str], ...] = (
    (_SCHEMAS_BY_NAME, dict, "an object"),
    (_ALTERNATIVES | {"enum", "required"}, list, "a list"),
)
_REPETITION = re.compile(r"\{\s*(\d*)\s*,?\s*(\d*)\s*\}")
_RULE = re.compile(r"^\s*[?!]?[\w.-]+(?:\s*::=|\s*:)", re.MULTILINE)


def json_bytes(value: dict[str, Any]) -> int:
    """Return the size of an object as JSON. Refuses what is deeper, or has larger integers, than a job can carry."""
    try:
        return len(orjson.dumps(value))
    except TypeError:
        raise PydanticCustomError(
            "too_deep", "it is too deep, or a number in it too large"
        ) from None


def check_schema(schema: dict[str, Any] | None) -> dict[str, Any] | None:
    """Return a JSON schema if it is within the bounds."""
    if schema is not None:
        if json_bytes(schema) > MAX_SCHEMA_BYTES:
            raise _too_much("bytes", MAX_SCHEMA_BYTES)
        _Tally().count(schema)
        _check_references(schema)
    return schema


def check_parameters(schema: dict[str, Any] | None) -> dict[str, Any] | None:
    """Return the schema of a function's arguments if it is one of objects, with known types throughout."""
    if schema is None:
        return None
    if schema.get("type", "object") != "object":
        raise PydanticCustomError("bad_schema", "its type must be object")
    waiting: list[Any] = [schema]
    while waiting:
        one = waiting.pop()
        if isinstance(one, bool):
            continue
        if not isinstance(one, dict):
            raise PydanticCustomError("bad_schema", "a schema in it is no object")
        _check_keywords(one)
        for name in _SCHEMAS_BY_NAME & one.keys():
            waiting += one[name].values()
        for name in _ALTERNATIVES & one.keys():
            waiting += one[name]
        for name in _SUBSCHEMAS & one.keys():
            inner = one[name]
            waiting += inner if isinstance(inner, list) else [inner]
    return schema


def _check_keywords(schema: dict[str, Any]) -> None:
    types = schema.get("type", ())
    for one in types if isinstance(types, list | tuple) else [types]:
        if one not in _TYPES:
            raise PydanticCustomError("bad_schema", "a type in it is unknown")
    for names, kind, called in _KINDS:
        for name in names & schema.keys():
            if not isinstance(schema[name], kind):
                raise PydanticCustomError(
                    "bad_schema", "{name} in it must be {kind}", {"name": name, "kind": called}
                )


def check_regex(regex: str | None) -> str | None:
    """Return a regular expression if it is within the bounds."""
    if regex is not None:
        if len(regex) > MAX_REGEX:
            raise _too_much("characters in a regular expression", MAX_REGEX)
        _check_repetitions(regex)
        _check_groups(regex)
    return regex


def check_grammar(grammar: str | None) -> str | None:
    """Return a grammar if it is within the bounds."""
    if grammar is not None:
        if sum(1 for _ in _RULE.finditer(grammar)) > MAX_RULES:
            raise _too_much("rules", MAX_RULES)
        if grammar.count("|") > MAX_ALTERNATIVES:
            raise _too_much("alternatives", MAX_ALTERNATIVES)
        _check_repetitions(grammar)
        _check_groups(grammar)
    return grammar


class _Tally:
    """Counts the parts of a JSON schema, without recursion."""

    def __init__(self) -> None:
        self._counts = dict.fromkeys(("values", "alternatives", "enum values", "references"), 0)

    def count(self, schema: dict[str, Any]) -> None:
        waiting: list[tuple[Any, int]] = [(schema, 1)]
        while waiting:
            value, depth = waiting.pop()
            if depth > MAX_DEPTH:
                raise _too_much("levels", MAX_DEPTH)
            if isinstance(value, dict):
                self._look_at(value)
                children = list(value.values())
            elif isinstance(value, list):
                children = value
            else:
                continue
            self._add("values", len(children), MAX_VALUES)
            waiting.extend((child, depth + 1) for child in children)

    def _look_at(self, schema: dict[str, Any]) -> None:
        for name, value in schema.items():
            if name in _COUNTS and isinstance(value, int | float) and value > MAX_REPETITIONS:
                raise _too_much(f"as {name}", MAX_REPETITIONS)
            if name in _ALTERNATIVES and isinstance(value, list):
                self._add("alternatives", len(value), MAX_ALTERNATIVES)
            elif name == "enum" and isinstance(value, list):
                self._add("enum values", len(value), MAX_ENUM_VALUES)
            elif name == "$ref":
                self._add("references", 1, MAX_REFERENCES)
            elif name == "pattern" and isinstance(value, str):
                check_regex(value)
            elif name == "patternProperties" and isinstance(value, dict):
                for pattern in value:
                    check_regex(pattern)

    def _add(self, what: str, count: int, most: int) -> None:
        self._counts[what] += count
        if self._counts[what] > most:
            raise _too_much(what, most)


def _check_references(schema: dict[str, Any]) -> None:
    """Refuse a definition that only refers back to itself: no value can satisfy it."""
    definitions: dict[str, Any] = {"#": schema}
    for place in ("$defs", "definitions"):
        if isinstance(inner := schema.get(place), dict):
            definitions |= {f"#/{place}/{name}": value for name, value in inner.items()}
    harmless: set[str] = set()
    for name in definitions:
        seen: set[str] = set()
        here: Any = name
        while isinstance(here, str) and here in definitions and here not in harmless:
            if here in seen:
                raise PydanticCustomError("endless_reference", "a $ref in it refers to itself")
            seen.add(here)
            definition = definitions[here]
            here = definition.get("$ref") if isinstance(definition, dict) else None
        harmless |= seen


def _check_repetitions(text: str) -> None:
    for found in _REPETITION.finditer(text):
        for number in found.groups():
            if len(number) > 9 or int(number or "0") > MAX_REGEX_REPETITIONS:
                raise _too_much("repetitions", MAX_REGEX_REPETITIONS)


def _check_groups(text: str) -> None:
    """Refuse deeply nested groups. Brackets in literals count too, because the bound is generous."""
    depth = 0
    for character in text:
        depth = max(0, depth + (character == "(") - (character == ")"))
        if depth > MAX_GROUP_DEPTH:
            raise _too_much("nested groups", MAX_GROUP_DEPTH)


def _too_much(what: str, most: int) -> PydanticCustomError:
    return PydanticCustomError(
        "structure_too_large", "at most {most} {what}", {"most": most, "what": what}
    )
