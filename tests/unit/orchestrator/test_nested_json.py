"""JSON in the texts of a body is bounded as the body is."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import BaseModel

from relais_common.jobs.errors import InvalidRequest
from relais_orchestrator.api.messages.schemas import MessagesRequest
from relais_orchestrator.api.openai.schemas import ChatCompletionRequest
from relais_orchestrator.api.parsing import parse_body
from relais_orchestrator.api.responses.schemas import ResponsesRequest
from relais_orchestrator.api.schemas.nested_json import MAX_DEPTH, MAX_DIGITS, check_json

DEEP = '{"a":' + "[" * MAX_DEPTH + "]" * MAX_DEPTH + "}"
TOO_MUCH = {
    "levels": DEEP,
    "levels of what never ends": "[" * 100_000,
    "levels after a text that JSON has not": '["\\ud800",' + DEEP + "]",
    "digits": '{"a":' + "1" * (MAX_DIGITS + 1) + "}",
    "lists": "[" + "[]," * 65_536 + "[]]",
}


def chat(arguments: str) -> tuple[type[BaseModel], dict[str, Any], str]:
    function = {"name": "f", "arguments": arguments}
    calls = [{"id": "c", "type": "function", "function": function}]
    messages = [{"role": "assistant", "tool_calls": calls}]
    return (
        ChatCompletionRequest,
        {"model": "m", "messages": messages},
        "messages.0.tool_calls.0.function.arguments",
    )


def response(arguments: str) -> tuple[type[BaseModel], dict[str, Any], str]:
    call = {"type": "function_call", "call_id": "c", "name": "f", "arguments": arguments}
    return ResponsesRequest, {"model": "m", "input": [call]}, "input.0.arguments"


@pytest.mark.parametrize("asked", [chat, response])
@pytest.mark.parametrize("arguments", TOO_MUCH.values(), ids=TOO_MUCH)
def test_arguments_of_an_earlier_call_that_cost_too_much_to_parse_are_refused_by_name(
    asked: Any, arguments: str
) -> None:
    schema, body, param = asked(arguments)

    with pytest.raises(InvalidRequest) as caught:
        parse_body(schema, json.dumps(body).encode())

    assert (caught.value.param, caught.value.code) == (param, "invalid_value")
    assert arguments[:20] not in caught.value.message


def test_the_input_of_an_earlier_use_is_bounded_as_its_body_is() -> None:
    use = f'{{"type":"tool_use","id":"c","name":"f","input":{DEEP}}}'
    body = f'{{"model":"m","max_tokens":1,"messages":[{{"role":"assistant","content":[{use}]}}]}}'

    with pytest.raises(InvalidRequest, match="nested too deeply"):
        parse_body(MessagesRequest, body.encode())


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no JSON at all ]]]]" + "[" * 300,
        json.dumps({"code": "[{(" * 100_000, "quoted": '"' + "[" * 300}),
        json.dumps({"bits": "01" * MAX_DIGITS, "half": 0.5}),
        "[" * MAX_DEPTH + "]" * MAX_DEPTH,
        "[" + "[]," * 1_000 + "[]]",
        "9" * MAX_DIGITS,
    ],
)
def test_what_models_write_is_taken_as_it_is(text: str) -> None:
    assert check_json(text) == text
