"""What is refused at the door of structured outputs, by its field, and what is not."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from relais_common.jobs.errors import InvalidRequest
from relais_orchestrator.api.parsing import parse_body
from relais_orchestrator.api.schemas import structure_bounds as bounds
from relais_orchestrator.api.schemas.sampling import SamplingParams


def nested(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(levels):
        schema = {"properties": {"a": schema}}
    return schema


def parsed(**fields: Any) -> SamplingParams:
    return parse_body(SamplingParams, orjson.dumps(fields))


SCHEMAS: dict[str, dict[str, Any]] = {
    "bytes": {"description": "x" * bounds.MAX_SCHEMA_BYTES},
    "values": {"examples": [0] * (bounds.MAX_VALUES + 1)},
    "depth": nested(bounds.MAX_DEPTH),
    "alternatives": {"anyOf": [{"type": "null"}] * (bounds.MAX_ALTERNATIVES + 1)},
    "alternatives in all": {
        "properties": {
            name: {"oneOf": [{"type": "null"}] * (bounds.MAX_ALTERNATIVES // 2 + 1)}
            for name in "ab"
        }
    },
    "enum": {"enum": list(range(bounds.MAX_ENUM_VALUES + 1))},
    "minItems": {"type": "array", "minItems": 1_000_000},
    "minProperties": {"type": "object", "minProperties": 10**12},
    "maxLength": {"type": "string", "maxLength": 10**8},
    "a repeated pattern": {"type": "string", "pattern": "^(a{1,5000})$"},
    "a pattern's property": {"patternProperties": {"a" * 2000: {}}},
    "references": {
        "$defs": {"a": {"type": "null"}},
        "anyOf": [{"$ref": "#/$defs/a"}] * (bounds.MAX_REFERENCES + 1),
    },
    "a reference to itself": {"$defs": {"a": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"},
    "a reference to the root": {"$ref": "#"},
    "references in a ring": {
        "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}},
        "type": "object",
    },
}


@pytest.mark.parametrize("schema", SCHEMAS.values(), ids=SCHEMAS)
def test_a_schema_over_its_bounds_is_refused_by_its_field(schema: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest) as refused:
        parsed(structured_outputs={"json": schema})
    assert refused.value.param == "structured_outputs.json"
    with pytest.raises(InvalidRequest) as refused:
        parsed(
            response_format={"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}
        )
    assert refused.value.param == "response_format.json_schema.schema"
    assert len(refused.value.message) < 200


CHAIN = "\n".join(f"a{i} ::= a{i + 1}" for i in range(bounds.MAX_RULES + 1))
LARK_CHAIN = "\n".join(f"a{i}: a{i + 1}" for i in range(bounds.MAX_RULES + 1))


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("grammar", CHAIN),
        ("grammar", LARK_CHAIN),
        ("grammar", "root ::= " + " | ".join(["a"] * (bounds.MAX_ALTERNATIVES + 2))),
        ("grammar", 'root ::= "a"{1,100000}'),
        ("grammar", "root ::= " + "(" * 40 + '"a"' + ")" * 40),
        ("regex", "(a{1,100000})"),
        ("regex", "a{99999999999999999999}"),
        ("regex", "(" * 40 + "a" + ")" * 40),
        ("regex", "a" * (bounds.MAX_REGEX + 1)),
    ],
)
def test_a_text_over_its_bounds_is_refused_by_its_field(kind: str, text: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        parsed(structured_outputs={kind: text})
    assert refused.value.param == f"structured_outputs.{kind}"


@pytest.mark.parametrize(
    "schema",
    [
        {
            "$defs": {
                "node": {
                    "type": "object",
                    "properties": {
                        "value": {"type": "string", "maxLength": 255},
                        "children": {"type": "array", "items": {"$ref": "#/$defs/node"}},
                    },
                }
            },
            "$ref": "#/$defs/node",
        },
        {"properties": {"parent": {"$ref": "#"}}},
        {"properties": {"minItems": {"type": "integer"}, "enum": {"type": "string"}}},
        {"type": "string", "pattern": r"^\d{4}-\d{2}-\d{2}$"},
        {"properties": {f"p{i}": {"type": "string"} for i in range(500)}},
    ],
)
def test_ordinary_schemas_pass(schema: dict[str, Any]) -> None:
    assert parsed(structured_outputs={"json": schema}).structured_outputs is not None


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("grammar", 'root ::= ("yes" | "no"){1,3} " " [0-9]+'),
        ("grammar", 'start: greeting "!"\ngreeting: /hello|bye/'),
        ("regex", r"\+\d{1,3}(-\d{2,4}){3}"),
    ],
)
def test_ordinary_texts_pass(kind: str, text: str) -> None:
    assert parsed(structured_outputs={kind: text}).structured_outputs is not None
