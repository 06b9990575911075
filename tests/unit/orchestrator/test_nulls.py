"""Null means of every optional field that it is absent."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import orjson
import pytest
from pydantic import BaseModel

from relais_common.jobs.job import OnDisconnect, Priority
from relais_orchestrator.api.openai.schemas import ChatCompletionRequest
from relais_orchestrator.api.parsing import parse_body
from relais_orchestrator.api.table import ROUTES

BODIES: set[type[BaseModel]] = {route.body for route in ROUTES if route.body is not None}


def takes_null(schema: dict[str, Any]) -> bool:
    """Whether null is one of the values that this JSON schema allows."""
    if "anyOf" in schema:
        return any(takes_null(one) for one in schema["anyOf"])
    if "enum" in schema:
        return None in schema["enum"]
    return schema.get("type") == "null" or not schema.keys() & {"type", "$ref", "const", "oneOf"}


def optional_fields(model: type[BaseModel]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The fields of a body, and of the objects in it, that may be absent."""
    whole = model.model_json_schema(by_alias=True)
    for name, one in [(model.__name__, whole), *whole.get("$defs", {}).items()]:
        for field, schema in one.get("properties", {}).items():
            if field not in one.get("required", ()):
                yield f"{name}.{field}", schema


@pytest.mark.parametrize("body", sorted(BODIES, key=str))
def test_every_optional_field_may_be_null(body: type[BaseModel]) -> None:
    assert [name for name, schema in optional_fields(body) if not takes_null(schema)] == []


def test_null_is_the_default() -> None:
    nulls = ("priority", "on_disconnect", "ignore_eos", "skip_special_tokens", "deadline_s")
    body: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "x"}]}
    bare = parse_body(ChatCompletionRequest, orjson.dumps(body))
    told = parse_body(ChatCompletionRequest, orjson.dumps(body | dict.fromkeys(nulls)))
    assert told.to_sampling() == bare.to_sampling()
    assert (told.priority, told.on_disconnect) == (Priority.NORMAL, OnDisconnect.CANCEL)
    assert told.skip_special_tokens is True
