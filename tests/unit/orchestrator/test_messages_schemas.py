"""Bodies of `/v1/messages`: what they are inside, and what is refused."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from relais_common.jobs.chat import (
    FunctionCall,
    ImagePart,
    ImageUrl,
    Message,
    TextPart,
    ToolCall,
)
from relais_common.jobs.errors import InvalidRequest
from relais_common.jobs.job import Operation
from relais_orchestrator.submission.drafts import Draft
from relais_orchestrator.submission.reading import Reading, read

GOOD: dict[str, Any] = {
    "model": "m",
    "max_tokens": 100,
    "messages": [{"role": "user", "content": "x"}],
}
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}


def draft(**fields: Any) -> Draft:
    return read(Reading.MESSAGES, json.dumps(GOOD | fields).encode()).draft


def told(*blocks: Any, role: str = "user") -> tuple[Message, ...]:
    """What the blocks of one message are inside; before results come their calls."""
    turns = [{"role": role, "content": list(blocks)}]
    ids = [block["tool_use_id"] for block in blocks if "tool_use_id" in block]
    if ids:
        turns.insert(0, {"role": "assistant", "content": [call(one) for one in ids]})
    if role == "assistant":
        turns.append({"role": "user", "content": "x"})
    messages = draft(messages=turns).messages
    assert messages is not None
    return messages[bool(ids) :] if role == "user" else messages[:-1]


def call(call_id: str) -> dict[str, Any]:
    return {"type": "tool_use", "id": call_id, "name": "f", "input": {}}


def result(call_id: str) -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": call_id, "content": "x"}


def said(role: str, *blocks: Any) -> dict[str, Any]:
    return {"role": role, "content": list(blocks)}


def text(words: str) -> dict[str, Any]:
    return {"type": "text", "text": words, "cache_control": {"type": "ephemeral", "ttl": "1h"}}


def test_a_conversation() -> None:
    found = {"type": "tool_result", "tool_use_id": "c1", "content": [text("21"), text("degrees")]}
    called = {"type": "tool_use", "id": "c1", "name": "weather", "input": {"city": "Lyon"}}
    turns = [
        {"role": "user", "content": "Weather?"},
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "Hm.", "signature": "s"},
                {"type": "redacted_thinking", "data": "AAAA"},
                {"type": "text", "text": "I ", "citations": None},
                {"type": "text", "text": "look."},
                called,
            ],
        },
        {"role": "user", "content": [found, text("Well?")]},
    ]
    weather = ToolCall("c1", FunctionCall("weather", '{"city":"Lyon"}'))
    assert draft(system=[text("Be"), text("kind.")], messages=turns).messages == (
        Message("system", "Be\nkind."),
        Message("user", "Weather?"),
        Message("assistant", "I look.", reasoning="Hm.", tool_calls=(weather,)),
        Message("tool", "21\ndegrees", tool_call_id="c1"),
        Message("user", "Well?"),
    )


def test_consecutive_messages_of_one_role_are_one_turn() -> None:
    turns = [
        {"role": "user", "content": "a"},
        {"role": "user", "content": [text("b")]},
        {"role": "system", "content": "c"},
        {"role": "user", "content": "d"},
    ]
    assert draft(messages=turns).messages == (
        Message("user", "a\nb"),
        Message("system", "c"),
        Message("user", "d"),
    )


def test_what_differs_in_every_request_is_left_out_of_the_prompt() -> None:
    header = text("x-anthropic-billing-header: cc_version=1; cch=fa690;")
    assert draft(system=[header, text("Be kind.")]).messages == (
        Message("system", "Be kind."),
        Message("user", "x"),
    )


def test_a_result_without_content_is_empty() -> None:
    assert told({"type": "tool_result", "tool_use_id": "c", "is_error": True}) == (
        Message("tool", "", tool_call_id="c"),
    )


@pytest.mark.parametrize(
    ("turns", "param"),
    [
        ([said("user", result("a"))], "messages.0.content.0.tool_use_id"),
        (
            [said("assistant", call("a")), said("user", text("x"), result("b"))],
            "messages.1.content.1.tool_use_id",
        ),
        (
            [said("assistant", call("a")), said("user", result("a"), result("a"))],
            "messages.1.content.1.tool_use_id",
        ),
        (
            [said("assistant", call("a"), call("a")), said("user", result("a"))],
            "messages.0.content.1.id",
        ),
        (
            [
                said("assistant", call("a")),
                said("user", text("x")),
                said("assistant", text("y")),
                said("user", result("a")),
            ],
            "messages.3.content.0.tool_use_id",
        ),
    ],
)
@pytest.mark.parametrize("route", [Reading.MESSAGES, Reading.COUNT_TOKENS])
def test_results_need_their_calls_in_the_turn_before(
    route: Reading, turns: list[Any], param: str
) -> None:
    body: dict[str, Any] = {"model": "m", "messages": turns}
    if route is Reading.MESSAGES:
        body["max_tokens"] = 1
    with pytest.raises(InvalidRequest, match="tool_use") as caught:
        read(route, json.dumps(body).encode())
    assert (caught.value.param, caught.value.code) == (param, "invalid_value")


def test_later_turns_may_have_the_ids_of_earlier_calls_again() -> None:
    turn = [
        said("assistant", call("a"), call("b")),
        said("user", result("b")),
        said("user", result("a")),
    ]
    draft(messages=[*turn, said("system", text("x")), *turn])


def test_names_of_found_tools_are_told() -> None:
    found = {"type": "tool_reference", "tool_name": "weather"}
    (message,) = told({"type": "tool_result", "tool_use_id": "c", "content": [found]})
    assert message.content == "weather"


@pytest.mark.parametrize(
    ("choice", "inside"),
    [
        (None, "auto"),
        ({"type": "auto"}, "auto"),
        ({"type": "any"}, "required"),
        ({"type": "none"}, "none"),
        ({"type": "tool", "name": "f"}, {"type": "function", "function": {"name": "f"}}),
    ],
)
def test_tools(choice: Any, inside: Any) -> None:
    tool = {
        "type": "custom",
        "name": "f",
        "description": "d",
        "input_schema": SCHEMA,
        "cache_control": {"type": "ephemeral"},
        "defer_loading": True,
        "eager_input_streaming": True,
    }
    options = draft(tools=[tool], tool_choice=choice).chat
    assert options.tools == (
        {"type": "function", "function": {"name": "f", "description": "d", "parameters": SCHEMA}},
    )
    assert (options.tool_choice, options.parallel_tool_calls) == (inside, True)


def test_parallel_calls_may_be_forbidden() -> None:
    choice = {"type": "auto", "disable_parallel_tool_use": True}
    assert draft(tool_choice=choice).chat.parallel_tool_calls is False


@pytest.mark.parametrize(
    ("thinking", "kwargs", "budget"),
    [
        (None, None, None),
        ({"type": "adaptive", "display": "summarized"}, None, None),
        ({"type": "disabled"}, {"enable_thinking": False}, None),
        ({"type": "enabled", "budget_tokens": 99}, {"enable_thinking": True}, 99),
    ],
)
def test_thinking(thinking: Any, kwargs: Any, budget: int | None) -> None:
    made = draft(thinking=thinking)
    assert (made.chat_template_kwargs, made.sampling.thinking_token_budget) == (kwargs, budget)


def test_sampling() -> None:
    schema = {"type": "json_schema", "schema": SCHEMA}
    for shape in (
        {"output_config": {"effort": "low", "format": schema}},
        {"output_format": schema},
    ):
        made = draft(top_k=5, top_p=0.5, temperature=0.5, stop_sequences=["a"], **shape)
        sampling = made.sampling
        assert (sampling.top_k, sampling.top_p, sampling.temperature) == (5, 0.5, 0.5)
        assert (sampling.stop, sampling.max_tokens, sampling.adapts_bounds) == (
            ("a",),
            100,
            True,
        )
        assert sampling.response_format is not None
        assert sampling.response_format["json_schema"]["schema"] == SCHEMA
    assert draft(output_config={"effort": "low"}).chat.reasoning_effort == "low"


def test_tokens_are_counted_of_the_same_prompt() -> None:
    body = {name: value for name, value in GOOD.items() if name != "max_tokens"}
    tools = [{"name": "f", "input_schema": SCHEMA}]
    thinking = {"type": "disabled"}
    counted = read(
        Reading.COUNT_TOKENS,
        json.dumps(body | {"tools": tools, "thinking": thinking, "system": "s"}).encode(),
    ).draft
    asked = draft(tools=tools, thinking=thinking, system="s")
    assert counted.operation is Operation.TOKENIZE
    assert (counted.messages, counted.chat.tools) == (asked.messages, asked.chat.tools)
    assert counted.chat_template_kwargs == asked.chat_template_kwargs


BLOCK = "messages.0.content.0"
IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}}
PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n").decode()
PICTURE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}}
PART = ImagePart(ImageUrl(f"data:image/png;base64,{PNG}"))


def test_images_are_parts_between_texts() -> None:
    word = text("a")
    (message,) = told(word, word, PICTURE, word)
    assert message.content == (TextPart("a\na"), PART, TextPart("a"))
    (message,) = told({"type": "tool_result", "tool_use_id": "a", "content": [PICTURE, word]})
    assert (message.role, message.content) == ("tool", (PART, TextPart("a")))


@pytest.mark.parametrize(
    ("block", "param", "code"),
    [
        (IMAGE, f"{BLOCK}.source.data", "invalid_value"),
        ({"type": "document", "source": {}}, f"{BLOCK}.type", "unsupported_value"),
        ({"type": "server_tool_use", "id": "a"}, f"{BLOCK}.type", "unsupported_value"),
        ({"type": "thinking", "thinking": "x"}, f"{BLOCK}.type", "invalid_value"),
        ({"type": "text", "text": 5}, f"{BLOCK}.text", "invalid_type"),
        ({"type": "text"}, f"{BLOCK}.text", "missing_required_parameter"),
        ({"type": "text", "text": "x", "y": 1}, f"{BLOCK}.y", "unknown_parameter"),
        (
            {"type": "tool_result", "tool_use_id": "a", "content": [{"type": "text"}]},
            f"{BLOCK}.content.0.text",
            "missing_required_parameter",
        ),
        (
            {"type": "tool_result", "tool_use_id": "a", "content": [IMAGE]},
            f"{BLOCK}.content.0.source.data",
            "invalid_value",
        ),
    ],
)
def test_blocks_that_are_refused(block: Any, param: str, code: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        draft(messages=[said("user", block)])
    assert (caught.value.param, caught.value.code) == (param, code)


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"temperature": 1.5}, "temperature", "invalid_value"),
        ({"max_tokens": 0}, "max_tokens", "invalid_value"),
        ({"max_tokens": None}, "max_tokens", "invalid_type"),
        ({"messages": []}, "messages", "invalid_value"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages.0.role", "unsupported_value"),
        ({"messages": [{"role": "assistant", "content": "x"}]}, "messages", "invalid_value"),
        ({"messages": [{"role": "user"}]}, "messages.0.content", "missing_required_parameter"),
        ({"tools": [{"name": "f"}]}, "tools.0.input_schema", "missing_required_parameter"),
        (
            {"tools": [{"type": "computer_20250124", "name": "computer", "display_width_px": 1}]},
            "tools.0.type",
            "unsupported_value",
        ),
        (
            {"tools": [{"name": "f", "input_schema": {"type": "array"}}]},
            "tools.0.input_schema",
            "invalid_value",
        ),
        ({"tool_choice": {"type": "any"}}, "tool_choice", "invalid_value"),
        ({"tool_choice": {"type": "tool"}}, "tool_choice.name", "missing_required_parameter"),
        ({"tool_choice": {"type": "auto", "name": "f"}}, "tool_choice.name", "invalid_value"),
        ({"thinking": {"type": "enabled"}}, "thinking.budget_tokens", "missing_required_parameter"),
        ({"thinking": {"type": "enabled", "budget_tokens": 100}}, "max_tokens", "invalid_value"),
        (
            {"thinking": {"type": "disabled", "budget_tokens": 1}},
            "thinking.budget_tokens",
            "invalid_value",
        ),
        ({"mcp_servers": [{}]}, "mcp_servers", "unsupported_value"),
        ({"service_tier": "flex"}, "service_tier", "unsupported_value"),
        ({"priority": "batch"}, "priority", "invalid_value"),
        ({"nope": 1}, "nope", "unknown_parameter"),
    ],
)
def test_fields_that_are_refused(fields: Any, param: str, code: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        draft(**fields)
    assert (caught.value.param, caught.value.code) == (param, code)


def test_images_are_named_in_the_order_in_which_a_job_has_them() -> None:
    def image(name: str) -> dict[str, Any]:
        return {"type": "image", "source": {"type": "url", "url": f"https://{name}/"}}

    turns = [
        said("user", image("first")),
        said("assistant", call("a"), call("b")),
        said("user", image("own"), result("a") | {"content": [image("of-a")]}),
        said("user", result("b") | {"content": [image("of-b")]}),
    ]
    images = draft(messages=turns, system="s").images
    assert [(part.image_url.url, field) for field, _, part in images] == [
        ("https://first/", "messages.0.content.0.source"),
        ("https://of-a/", "messages.2.content.1.content.0.source"),
        ("https://of-b/", "messages.3.content.0.content.0.source"),
        ("https://own/", "messages.2.content.0.source"),
    ]
