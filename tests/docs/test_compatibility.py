"""docs/compatibility.md names every field of OpenAI's and Anthropic's routes, which know all fields of these APIs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, get_type_hints

import pytest
from anthropic.types import MessageCountTokensParams
from anthropic.types.beta.message_count_tokens_params import (
    MessageCountTokensParams as BetaCountTokensParams,
)
from anthropic.types.beta.message_create_params import (
    MessageCreateParamsBase as BetaMessageParams,
)
from anthropic.types.message_create_params import MessageCreateParamsBase as MessageParams
from openai.types.chat.completion_create_params import CompletionCreateParamsBase as ChatParams
from openai.types.completion_create_params import CompletionCreateParamsBase as TextParams
from openai.types.responses.response_create_params import ResponseCreateParamsBase
from pydantic import BaseModel, ValidationError

from relais_orchestrator.api.messages.schemas import CountTokensRequest, MessagesRequest
from relais_orchestrator.api.openai.schemas import ChatCompletionRequest, CompletionRequest
from relais_orchestrator.api.openai.vllm_fields import RefusedOnChats
from relais_orchestrator.api.responses.schemas import ResponsesRequest
from relais_orchestrator.api.schemas.messages import TemplateKwargs
from relais_orchestrator.api.schemas.prompting import ChatPromptFields

PAGE = Path(__file__).resolve().parents[2] / "docs" / "compatibility.md"
ROW = re.compile(r"^\| `(?P<field>\w+)` \| (?P<state>[^|]*) \|", re.MULTILINE)
ROUTES = [
    pytest.param(ChatCompletionRequest, "Chat completions", ChatParams, id="chat"),
    pytest.param(CompletionRequest, "Text completions", TextParams, id="text"),
    pytest.param(ResponsesRequest, "Responses", ResponseCreateParamsBase, id="responses"),
]
MESSAGES = "Messages"
HEADERS = {"betas", "user_profile_id", "workspace_id"}
"""What Anthropic's client sends as headers."""
VLLM = "vLLM's fields, on both"
GOOD: dict[str, Any] = {
    "model": "m",
    "messages": [{"role": "user", "content": "x"}],
    "prompt": "x",
    "input": "x",
    "stream": True,
    "max_tokens": 16,
}


def section(title: str) -> dict[str, str]:
    """Fields, and what stands beside them, in the table under this heading."""
    sections = re.split(r"^## ", PAGE.read_text(), flags=re.MULTILINE)
    (wanted,) = (text for text in sections if text.split("\n", 1)[0] == title)
    return {row["field"]: row["state"] for row in ROW.finditer(wanted)}


def vllms(schema: type[BaseModel]) -> dict[str, str]:
    """The same of vLLM's fields on this route."""
    if schema is ResponsesRequest:
        told = re.search(
            r"^Of vLLM's fields it takes (.*?); of", PAGE.read_text(), re.MULTILINE | re.DOTALL
        )
        assert told
        return dict.fromkeys(re.findall(r"`(\w+)`", told[1]), "supported")
    kinds = (RefusedOnChats, ChatPromptFields, TemplateKwargs)
    of_chats = {"echo"}.union(*(kind.model_fields for kind in kinds))
    chats = of_chats if schema is CompletionRequest else ()
    return {name: state for name, state in section(VLLM).items() if name not in chats}


def codes(schema: type[BaseModel], field: str, value: Any) -> list[str]:
    """How a good request with this field is refused; nothing where it is accepted."""
    body = {name: good for name, good in GOOD.items() if name in schema.model_fields}
    if schema is ResponsesRequest:
        del body["prompt"], body["max_tokens"]
    try:
        schema.model_validate({**body, field: value})
    except ValidationError as error:
        return [one["type"] for one in error.errors()]
    return []


@pytest.mark.parametrize(("schema", "title", "params"), ROUTES)
def test_every_field_is_documented_and_every_documented_one_exists(
    schema: type[BaseModel], title: str, params: type
) -> None:
    own = set(section("Relais's own fields, on both"))
    if schema is ResponsesRequest:
        own -= {"on_disconnect"}
    assert section(title).keys() | vllms(schema).keys() | own == schema.model_fields.keys()


@pytest.mark.parametrize(("schema", "title", "params"), ROUTES)
def test_no_field_of_the_official_client_is_unknown(
    schema: type[BaseModel], title: str, params: type
) -> None:
    assert get_type_hints(params).keys() - schema.model_fields.keys() == set()


@pytest.mark.parametrize(("schema", "title", "params"), ROUTES)
def test_what_is_refused_and_accepted_is_what_the_page_says(
    schema: type[BaseModel], title: str, params: type
) -> None:
    for field, state in {**vllms(schema), **section(title)}.items():
        if state == "refused":
            assert codes(schema, field, {"a": 1}) == ["unsupported_parameter"], field
            assert codes(schema, field, None) == []
        elif state.startswith("at "):
            assert codes(schema, field, "other") == ["unsupported_value"], field
            values = re.findall(r"`([^`]*)`", state)
            assert values
            for value in values:
                plain: Any = {
                    "1": 1,
                    "[]": [],
                    "0": 0,
                    "false": False,
                    "true": True,
                    '["text"]': ["text"],
                }.get(value, value)
                assert codes(schema, field, plain) == [], (field, value)
        elif state == "no effect":
            labels = {name: {"a": "x"} for name in ("metadata", "client_metadata")}
            effectless = {**labels, "service_tier": "flex", "max_tool_calls": 3}
            assert codes(schema, field, effectless.get(field, "x")) == []


def test_every_field_of_messages_is_documented_and_every_documented_one_exists() -> None:
    own = section("Relais's own fields, on both").keys()
    assert section(MESSAGES).keys() | own == MessagesRequest.model_fields.keys()
    assert CountTokensRequest.model_fields.keys() < MessagesRequest.model_fields.keys()


@pytest.mark.parametrize("params", [MessageParams, BetaMessageParams])
def test_no_field_of_messages_of_the_official_client_is_unknown(params: type) -> None:
    assert get_type_hints(params).keys() - HEADERS - MessagesRequest.model_fields.keys() == set()


@pytest.mark.parametrize("params", [MessageCountTokensParams, BetaCountTokensParams])
def test_no_field_of_counts_of_the_official_client_is_unknown(params: type) -> None:
    assert get_type_hints(params).keys() - HEADERS - CountTokensRequest.model_fields.keys() == set()


def test_what_messages_refuse_and_accept_is_what_the_page_says() -> None:
    for field, state in section(MESSAGES).items():
        if state == "refused":
            assert codes(MessagesRequest, field, {"a": 1}) == ["unsupported_parameter"], field
            assert codes(MessagesRequest, field, None) == []
        elif state.startswith("at "):
            assert codes(MessagesRequest, field, "other") == ["unsupported_value"], field
            for value in re.findall(r"`([^`]*)`", state):
                assert codes(MessagesRequest, field, [] if value == "[]" else value) == [], field
        elif state == "no effect":
            value = {"user_id": "x"} if field == "metadata" else {"type": "ephemeral"}
            assert codes(MessagesRequest, field, value) == [], field
