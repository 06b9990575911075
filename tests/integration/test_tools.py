"""Tools and reasoning on the OpenAI routes, through the official client, and on the native ones."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest
from openai.types.chat import ChatCompletion

from relais_testing.builders import MODEL
from relais_testing.sse_client import read_events, text_of
from relais_testing.stack import Front, Stack

TOOL: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather in a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
        "strict": True,
    },
}
NAMED = {"type": "function", "function": {"name": "weather"}}
CALL = '<tool_call>{"name": "weather", "arguments": {"city":"Lyon"}}</tool_call>'

pytestmark = pytest.mark.usefixtures("worker")


@pytest.fixture
async def front(stack: Stack) -> Front:
    return await stack.front(WATCH_LEASE_S="60")


def asked(said: str | None = None, **fields: Any) -> Any:
    content = "hello" if said is None else f"[say]{said}[/say]"
    return {"model": MODEL, "messages": [{"role": "user", "content": content}], **fields}


async def whole(client: openai.AsyncOpenAI, **fields: Any) -> ChatCompletion:
    answer: ChatCompletion = await client.chat.completions.create(**asked(**fields))
    return answer


async def streamed(client: openai.AsyncOpenAI, **fields: Any) -> ChatCompletion:
    """The answer as the official client puts it together from a stream."""
    async with client.chat.completions.stream(**asked(**fields)) as stream:
        return await stream.get_final_completion()


@pytest.mark.parametrize("answered", [whole, streamed])
async def test_a_tool_is_called(client: openai.AsyncOpenAI, answered: Any) -> None:
    answer = await answered(client, said=f"I look.{CALL}", tools=[TOOL])
    (choice,) = answer.choices
    assert (choice.finish_reason, choice.message.content) == ("tool_calls", "I look.")
    (call,) = choice.message.tool_calls
    assert (call.type, call.function.name) == ("function", "weather")
    assert (json.loads(call.function.arguments), bool(call.id)) == ({"city": "Lyon"}, True)


@pytest.mark.parametrize("answered", [whole, streamed])
@pytest.mark.parametrize(("choice", "reason"), [("required", "tool_calls"), (NAMED, "stop")])
async def test_a_tool_that_must_be_called_is(
    client: openai.AsyncOpenAI, answered: Any, choice: Any, reason: str
) -> None:
    answer = await answered(client, tools=[TOOL], tool_choice=choice)
    (call,) = answer.choices[0].message.tool_calls
    assert (call.function.name, answer.choices[0].finish_reason) == ("weather", reason)


async def test_the_result_goes_back_with_the_answer_as_it_came(client: openai.AsyncOpenAI) -> None:
    first = await whole(client, said=f"<think>Hm.</think>{CALL}", tools=[TOOL])
    message = first.choices[0].message
    assert message.tool_calls
    tools: Any = [TOOL]
    history: Any = [
        {"role": "user", "content": "How is the weather?"},
        message.to_dict(),
        {
            "role": "tool",
            "tool_call_id": message.tool_calls[0].id,
            "content": "[say]It rains.[/say]",
        },
    ]
    answer = await client.chat.completions.create(model=MODEL, messages=history, tools=tools)
    assert answer.choices[0].message.content == "It rains."
    assert answer.choices[0].finish_reason == "stop"


async def test_no_two_calls_have_the_same_id(client: openai.AsyncOpenAI) -> None:
    fields = {"tools": [TOOL], "tool_choice": "required", "n": 2}
    answers = [await whole(client, **fields) for _ in range(2)]
    messages = [choice.message for one in answers for choice in one.choices]
    ids = [call.id for one in messages for call in one.tool_calls or ()]
    assert len(set(ids)) == len(ids) == 4


@pytest.mark.parametrize("answered", [whole, streamed])
async def test_reasoning_is_told_apart_under_both_names_and_counted(
    client: openai.AsyncOpenAI, answered: Any
) -> None:
    usage = {"stream_options": {"include_usage": True}} if answered is streamed else {}
    answer = await answered(client, said="<think>Let me see.</think>Yes.", **usage)
    message = answer.choices[0].message
    assert message.content == "Yes."
    assert message.reasoning == message.reasoning_content == "Let me see."
    assert answer.usage.completion_tokens_details.reasoning_tokens > 0


async def test_a_stream_brings_a_call_in_pieces(front: Front) -> None:
    body = asked(CALL, tools=[TOOL], stream=True)
    async with front.post("/v1/chat/completions", body) as response:
        lines = (await response.text()).split("\n\n")
    chunks = [json.loads(line.removeprefix("data: ")) for line in lines if line[6:7] == "{"]
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert deltas[0] == {"role": "assistant", "content": ""}
    first, *rest = [part for delta in deltas for part in delta.get("tool_calls", ())]
    assert first.keys() == {"index", "id", "type", "function"}
    assert first["function"]["name"] == "weather"
    assert len(rest) > 1
    assert all(part.keys() == {"index", "function"} for part in rest)
    assert all(part["function"].keys() == {"arguments"} for part in rest)
    assert chunks[-1]["choices"][0]["finish_reason"] == "tool_calls"


async def test_a_call_that_cannot_be_read_is_text(client: openai.AsyncOpenAI) -> None:
    garbled = '<tool_call>{"name": "weather", "arguments": {"city":'
    answer = await whole(client, said=garbled, tools=[TOOL])
    (choice,) = answer.choices
    assert (choice.message.content, choice.message.tool_calls) == (garbled, None)
    assert choice.finish_reason == "stop"


async def test_native_events_and_result_have_calls_and_reasoning(front: Front) -> None:
    channel_id = await front.submit(asked(f"<think>Hm.</think>Well.{CALL}", tools=[TOOL]))
    events = await read_events(front.session, f"/v1/channels/{channel_id}/events")
    tokens = [event.json for event in events if event.name == "token"]
    assert text_of(events) == "Well."
    assert "".join(one.get("reasoning", "") for one in tokens) == "Hm."
    parts = [part for one in tokens for part in one.get("tool_calls", ())]
    assert "".join(part["function"].get("arguments", "") for part in parts) == '{"city":"Lyon"}'
    completed = events[-1].json
    assert completed["finish_reason"] == "tool_calls"
    result = (await front.state(channel_id))["result"]
    assert result["message"] == completed["message"]
    (call,) = result["message"]["tool_calls"]
    assert (call["id"], call["function"]["name"]) == (parts[0]["id"], "weather")
    assert result["usage"]["reasoning_tokens"] > 0


async def test_plain_answers_have_no_more_fields_than_before(front: Front) -> None:
    channel_id = await front.submit(asked())
    events = await read_events(front.session, f"/v1/channels/{channel_id}/events")
    assert {frozenset(one.json) for one in events if one.name == "token"} == {
        frozenset(("text", "token_ids"))
    }
    assert "message" not in events[-1].json
    assert events[-1].json["usage"].keys() == {"input_tokens", "output_tokens", "cached_tokens"}


def bad(**function: Any) -> list[Any]:
    return [{"type": "function", "function": {"name": "f", **function}}]


@pytest.mark.parametrize("route", ["/v1/chat/completions", "/v1/requests"])
@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": bad(name="a b")}, "tools.0.function.name"),
        ({"tools": bad(parameters=5)}, "tools.0.function.parameters"),
        ({"tools": bad(parameters={"type": "array"})}, "tools.0.function.parameters"),
        (
            {"tools": bad(parameters={"properties": {"a": {"type": "text"}}})},
            "tools.0.function.parameters",
        ),
        ({"tools": bad(parameters={"properties": []})}, "tools.0.function.parameters"),
        ({"tools": bad(parameters={"required": "a"})}, "tools.0.function.parameters"),
        ({"tools": bad(parameters={"items": 5})}, "tools.0.function.parameters"),
        ({"tools": bad(description=5)}, "tools.0.function.description"),
        ({"tools": bad(more=1)}, "tools.0.function.more"),
        ({"tools": [{"type": "custom"}]}, "tools.0.type"),
        ({"tools": bad() * 129}, "tools"),
        ({"tools": bad(description="x" * 300_000)}, "tools"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": [], "tool_choice": NAMED}, "tool_choice"),
        ({"tools": bad(), "tool_choice": NAMED}, "tool_choice"),
        ({"tools": bad(), "tool_choice": "f"}, "tool_choice"),
        ({"reasoning_effort": "some"}, "reasoning_effort"),
        ({"parallel_tool_calls": 1}, "parallel_tool_calls"),
    ],
)
async def test_bad_tools_are_refused_by_name(
    front: Front, route: str, fields: dict[str, Any], param: str
) -> None:
    async with front.post(route, asked(**fields)) as response:
        assert (response.status, (await response.json())["error"]["param"]) == (400, param)


CALLS = [{"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}]


@pytest.mark.parametrize(
    ("message", "param"),
    [
        ({"role": "tool", "content": "x"}, "tool_call_id"),
        ({"role": "tool", "tool_call_id": "c"}, "content"),
        ({"role": "user", "content": "x", "tool_call_id": "c"}, "tool_call_id"),
        ({"role": "user", "content": "x", "tool_calls": CALLS}, "tool_calls"),
        ({"role": "user", "content": "x", "reasoning": "hm"}, "reasoning"),
        ({"role": "assistant", "tool_calls": [{"id": "c"}]}, "tool_calls.0.type"),
        ({"role": "assistant", "tool_calls": [{**CALLS[0], "id": ""}]}, "tool_calls.0.id"),
        ({"role": "function", "content": "x"}, "role"),
    ],
)
async def test_bad_messages_are_refused_by_name(
    front: Front, message: dict[str, Any], param: str
) -> None:
    body = {"model": MODEL, "messages": [message]}
    async with front.post("/v1/chat/completions", body) as response:
        error = (await response.json())["error"]
        assert (response.status, error["param"]) == (400, f"messages.0.{param}")
