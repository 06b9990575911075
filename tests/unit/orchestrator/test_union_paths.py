"""Errors name fields by the names that clients gave them, and not by pydantic's names for the branches of unions."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import BaseModel

from relais_common.jobs.errors import InvalidRequest
from relais_orchestrator.api.embeddings.schemas import EmbeddingRequest, RerankRequest
from relais_orchestrator.api.messages.schemas import CountTokensRequest, MessagesRequest
from relais_orchestrator.api.native.schemas import SubmitRequest
from relais_orchestrator.api.openai.schemas import ChatCompletionRequest, CompletionRequest
from relais_orchestrator.api.parsing import parse_body
from relais_orchestrator.api.responses.schemas import InputTokensRequest, ResponsesRequest
from relais_orchestrator.api.schemas.branches import is_branch
from relais_orchestrator.api.tokens.schemas import DetokenizeRequest, TokenizeRequest

CHAT = {"messages": [{"role": "user", "content": "x"}]}
TOOLS = [{"type": "function", "function": {"name": "f"}}]
NO_TOOLS = {"mode": "auto", "tools": []}


@pytest.mark.parametrize(
    ("schema", "fields", "param"),
    [
        (schema, CHAT | {"tools": TOOLS, "tool_choice": choice}, param)
        for schema in (ChatCompletionRequest, SubmitRequest)
        for choice, param in (
            ({"type": "function"}, "tool_choice.function"),
            ({"type": "function", "function": {}}, "tool_choice.function.name"),
            ({"type": "x"}, "tool_choice.type"),
            ({"type": "allowed_tools"}, "tool_choice.allowed_tools"),
            (
                {"type": "allowed_tools", "allowed_tools": NO_TOOLS},
                "tool_choice.allowed_tools.tools",
            ),
        )
    ]
    + [
        (
            ResponsesRequest,
            {"input": "x", "text": {"format": {"type": "json_schema", "schema": {}}}},
            "text.format.name",
        ),
        (ResponsesRequest, {"input": "x", "text": {"format": {"type": "x"}}}, "text.format.type"),
        (ResponsesRequest, {"input": "x", "text": {"format": {}}}, "text.format.type"),
        (ResponsesRequest, {"input": "x", "tool_choice": {"type": "function"}}, "tool_choice.name"),
        (ResponsesRequest, {"input": "x", "tool_choice": NO_TOOLS}, "tool_choice.type"),
        (
            ResponsesRequest,
            {"input": "x", "tool_choice": NO_TOOLS | {"type": "allowed_tools"}},
            "tool_choice.tools",
        ),
        (
            ChatCompletionRequest,
            CHAT | {"response_format": {"type": "json_schema"}},
            "response_format.json_schema",
        ),
    ],
)
def test_a_field_of_a_union_is_named_without_its_branch(
    schema: type[BaseModel], fields: dict[str, Any], param: str
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_body(schema, json.dumps({"model": "m", **fields}).encode())

    assert caught.value.param == param
    assert caught.value.message.startswith(f"{param}: ")


@pytest.mark.parametrize(
    "schema",
    [
        ChatCompletionRequest,
        CompletionRequest,
        CountTokensRequest,
        DetokenizeRequest,
        EmbeddingRequest,
        InputTokensRequest,
        MessagesRequest,
        RerankRequest,
        ResponsesRequest,
        SubmitRequest,
        TokenizeRequest,
    ],
)
def test_each_branch_with_fields_of_its_own_has_a_name_that_paths_omit(
    schema: type[BaseModel],
) -> None:
    assert not [
        choice["type"]
        for choice in _unnamed(schema.__pydantic_core_schema__)
        if choice["type"] not in ("int", "chain")  # numbers, which have no fields
    ]


def _unnamed(schema: Any) -> Iterator[dict[str, Any]]:
    if isinstance(schema, dict):
        if schema.get("type") == "union":
            for choice in schema["choices"]:
                if isinstance(choice, dict):
                    yield choice
                else:
                    assert is_branch(choice[1])
        schema = list(schema.values())
    if isinstance(schema, list | tuple):
        for one in schema:
            yield from _unnamed(one)
