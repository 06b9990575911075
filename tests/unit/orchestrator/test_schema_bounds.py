"""Every list and mapping of every body has a bound, lists stop at the first fault, branches of unions have names."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import BaseModel

from relais_orchestrator.api.schemas.branches import is_branch
from relais_orchestrator.api.table import ROUTES

SCHEMAS = {route.body.__name__: route.body for route in ROUTES if route.body is not None}
CONTAINERS = ("list", "tuple", "set", "frozenset", "dict", "generator")


def parts(schema: Any, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Each schema within a core schema, with where it stands."""
    if isinstance(schema, dict):
        if isinstance(schema.get("type"), str):
            yield path, schema
        for name, inner in schema.items():
            # A field may be called metadata, too.
            is_field = isinstance(inner, dict) and "type" in inner
            if name not in ("serialization", "ref") and (name != "metadata" or is_field):
                yield from parts(inner, f"{path}.{name}")
    elif isinstance(schema, list | tuple):
        for index, inner in enumerate(schema):
            yield from parts(inner, f"{path}.{index}")


@pytest.mark.parametrize("schema", SCHEMAS.values(), ids=SCHEMAS)
def test_every_list_and_mapping_has_a_bound(schema: type[BaseModel]) -> None:
    found = [
        (path, one)
        for path, one in parts(schema.__pydantic_core_schema__)
        if one["type"] in CONTAINERS
    ]
    assert found
    assert [path for path, one in found if one.get("max_length") is None] == []
    assert [path for path, one in found if one["type"] == "list" and not one.get("fail_fast")] == []


@pytest.mark.parametrize("schema", SCHEMAS.values(), ids=SCHEMAS)
def test_branches_of_unions_have_names_that_no_client_is_told(schema: type[BaseModel]) -> None:
    unnamed = [
        path
        for path, one in parts(schema.__pydantic_core_schema__)
        if one["type"] == "union" and "custom_error_type" not in one
        for choice in one["choices"]
        if not (isinstance(choice, tuple) and is_branch(choice[1]))
    ]
    assert unnamed == []
