"""Responses through the official client."""

from __future__ import annotations

import asyncio
import json
from typing import Any, Literal

import openai
import pytest
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import BaseModel, TypeAdapter

from relais_orchestrator.api.responses import handlers
from relais_testing.builders import MODEL
from relais_testing.stack import Front, Stack, answer_to, answer_to_prompt
from relais_testing.waiting import LIVENESS_S, wait_until

TOOL: Any = {
    "type": "function",
    "name": "weather",
    "description": "The weather in a city.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    "strict": True,
}
CALLED = {"type": "function_call", "call_id": "c", "name": "weather", "arguments": "{}"}
OUTPUT = {"type": "function_call_output", "call_id": "c", "output": "rain"}
CALL = '<tool_call>{"name": "weather", "arguments": {"city":"Lyon"}}</tool_call>'
ALLOWED: Any = {
    "type": "allowed_tools",
    "mode": "required",
    "tools": [{"type": "function", "name": "weather"}],
}
EVENTS: TypeAdapter[ResponseStreamEvent] = TypeAdapter(ResponseStreamEvent)

pytestmark = pytest.mark.usefixtures("worker")


def allowing(tool: dict[str, Any]) -> dict[str, Any]:
    return {"tools": [TOOL], "tool_choice": {**ALLOWED, "tools": [tool]}}


def say(text: str) -> str:
    return f"[say]{text}[/say]"


async def streamed(client: openai.AsyncOpenAI, **fields: Any) -> list[Any]:
    """All events; each is what the client's own types say, and their numbers have no gap."""
    stream: Any = await client.responses.create(model=MODEL, stream=True, **fields)
    events: list[Any] = [event async for event in stream]
    for event in events:
        EVENTS.validate_python(event.to_dict(), strict=False)
    assert [event.sequence_number for event in events] == list(range(len(events)))
    return events


async def test_text(client: openai.AsyncOpenAI) -> None:
    answer: Any = await client.responses.create(
        model=MODEL, input="a", max_output_tokens=20, temperature=0.5, metadata={"a": "b"}
    )
    Response.model_validate(answer.to_dict())
    assert answer.output_text == answer_to("a", 20)
    assert (answer.status, answer.object, answer.model) == ("incomplete", "response", MODEL)
    assert answer.incomplete_details.reason == "max_output_tokens"
    assert (answer.metadata, answer.temperature, answer.store) == ({"a": "b"}, 0.5, True)
    assert answer.usage.output_tokens == 20
    assert answer.usage.total_tokens == answer.usage.input_tokens + 20


async def test_instructions_and_items_are_messages(client: openai.AsyncOpenAI) -> None:
    items: Any = [
        {"role": "user", "content": [{"type": "input_text", "text": "a"}]},
        {"type": "message", "role": "assistant", "content": "b"},
        {"role": "developer", "content": "c"},
        {"role": "user", "content": "d"},
    ]
    answer: Any = await client.responses.create(
        model=MODEL, input=items, instructions="Be brief.", max_output_tokens=8
    )
    prompt = "<system>Be brief.<user>a<assistant>b<system>c<user>d<assistant>"
    assert answer.output_text == answer_to_prompt(prompt, 8)
    assert answer.instructions == "Be brief."


async def test_events_come_in_openai_s_order(client: openai.AsyncOpenAI) -> None:
    events = await streamed(client, input="a")
    assert [event.type for event in events if event.type != "response.output_text.delta"] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    final = events[-1].response
    assert text == final.output_text == answer_to("a")
    assert final.usage.output_tokens == 32
    fetched = await client.responses.retrieve(final.id)
    assert fetched.to_dict() == final.to_dict()


async def test_the_client_s_own_stream_helper(client: openai.AsyncOpenAI) -> None:
    async with client.responses.stream(
        model=MODEL, input=say(f"I look.{CALL}"), tools=[TOOL]
    ) as stream:
        final = await stream.get_final_response()
    message, call = final.output
    assert message.type == "message"
    assert call.type == "function_call"
    assert call.parsed_arguments == {"city": "Lyon"}


async def test_tools_round_trip_by_previous_response(client: openai.AsyncOpenAI) -> None:
    first: Any = await client.responses.create(
        model=MODEL, input=say(f"<think>Hm.</think>I look.{CALL}"), tools=[TOOL]
    )
    reasoning, message, call = first.output
    assert (reasoning.type, message.type, call.type) == ("reasoning", "message", "function_call")
    assert json.loads(call.arguments) == {"city": "Lyon"}
    result: Any = {
        "type": "function_call_output",
        "call_id": call.call_id,
        "output": say("It rains."),
    }
    for fields in (
        {"input": [result], "previous_response_id": first.id},
        {"input": [{"role": "user", "content": "Weather?"}, *first.output, result]},
    ):
        answer: Any = await client.responses.create(model=MODEL, tools=[TOOL], **fields)
        assert answer.output_text == "It rains."


@pytest.mark.parametrize("choice", ["required", {"type": "function", "name": "weather"}])
async def test_a_tool_that_must_be_called_is(client: openai.AsyncOpenAI, choice: Any) -> None:
    events = await streamed(client, input="a", tools=[TOOL], tool_choice=choice)
    (call,) = events[-1].response.output
    deltas = [one.delta for one in events if one.type == "response.function_call_arguments.delta"]
    assert len(deltas) > 1
    assert "".join(deltas) == call.arguments
    (done,) = [one for one in events if one.type == "response.function_call_arguments.done"]
    assert (done.name, done.arguments, done.item_id) == ("weather", call.arguments, call.id)
    assert events[-1].response.status == "completed"


async def test_only_allowed_tools_are_told(client: openai.AsyncOpenAI) -> None:
    other: Any = {**TOOL, "name": "time"}
    fields: Any = {"model": MODEL, "input": "a"}
    answer: Any = await client.responses.create(**fields, tools=[other, TOOL], tool_choice=ALLOWED)
    assert [call.name for call in answer.output] == ["weather"]
    assert answer.tool_choice.to_dict() == ALLOWED
    alone: Any = await client.responses.create(**fields, tools=[TOOL], tool_choice="required")
    assert answer.usage.input_tokens == alone.usage.input_tokens


async def test_reasoning_is_an_item_of_its_own(client: openai.AsyncOpenAI) -> None:
    events = await streamed(
        client,
        input=say("<think>Let me see.</think>Yes."),
        reasoning={"effort": "low", "summary": "auto"},
        include=["reasoning.encrypted_content"],
    )
    final = events[-1].response
    reasoning, message = final.output
    assert reasoning.content[0].text == "Let me see."
    assert message.content[0].text == "Yes."
    assert final.usage.output_tokens_details.reasoning_tokens > 0
    deltas = [one.delta for one in events if one.type == "response.reasoning_text.delta"]
    assert "".join(deltas) == "Let me see."
    assert final.to_dict() == (await client.responses.retrieve(final.id)).to_dict()


async def test_a_format_is_a_response_format(client: openai.AsyncOpenAI) -> None:
    class Remark(BaseModel):
        kind: Literal["praise", "complaint"]

    # This engine follows none. What becomes of one at vLLM is seen with the other clients.
    with pytest.raises(openai.BadRequestError, match="follows no") as refused:
        await client.responses.parse(model=MODEL, input="a", text_format=Remark)
    assert refused.value.param == "text.format"


async def test_log_probabilities(client: openai.AsyncOpenAI) -> None:
    asked: Any = {"include": ["message.output_text.logprobs"], "top_logprobs": 2}
    answer: Any = await client.responses.create(
        model=MODEL, input="a", max_output_tokens=5, **asked
    )
    part = answer.output[0].content[0]
    assert [len(one.top_logprobs) for one in part.logprobs] == [2] * 5
    events = await streamed(client, input="a", max_output_tokens=5, **asked)
    told = events[-1].response.output[0].content[0].logprobs
    assert [one.token for one in told] == [one.token for one in part.logprobs]
    deltas = [one for one in events if one.type == "response.output_text.delta"]
    assert sum(len(one.logprobs) for one in deltas) == 5


async def test_background_response_is_queued_and_fetched(
    client: openai.AsyncOpenAI, front: Front
) -> None:
    queued: Any = await client.responses.create(model=MODEL, input="a", background=True)
    assert (queued.status, queued.background, queued.output) == ("queued", True, [])

    async def ended() -> Response | None:
        answer: Any = await client.responses.retrieve(queued.id)
        return None if answer.status in ("queued", "in_progress") else answer

    answer = await wait_until(ended)
    assert answer is not None
    assert (answer.status, answer.output_text) == ("completed", answer_to("a"))
    stream: Any = await client.responses.retrieve(queued.id, stream=True)
    whole = [event async for event in stream]
    assert [event.type for event in whole[:3]] == [
        "response.created",
        "response.queued",
        "response.in_progress",
    ]
    for after in (0, 5, len(whole) - 2, len(whole) - 1):
        stream = await client.responses.retrieve(queued.id, stream=True, starting_after=after)
        assert [event async for event in stream] == whole[after + 1 :]
    with pytest.raises(openai.ConflictError, match=f"number {len(whole) - 1};") as past:
        await client.responses.retrieve(queued.id, stream=True, starting_after=len(whole))
    assert (past.value.param, past.value.code) == ("starting_after", "log_rewound")
    with pytest.raises(openai.BadRequestError, match="starting_after"):
        await client.responses.retrieve(queued.id, stream=True, starting_after=-1)


async def test_background_stream_goes_on_elsewhere(
    client: openai.AsyncOpenAI, stack: Stack, front: Front
) -> None:
    stream: Any = await client.responses.create(
        model=MODEL, input="a", background=True, stream=True, max_output_tokens=200
    )
    seen: list[Any] = []
    async for event in stream:
        seen.append(event)
        if len(seen) == 20:
            break
    await stream.close()
    other = await stack.front(WATCH_LEASE_S="60")
    async with openai.AsyncOpenAI(base_url=f"{other.url}/v1", api_key="any") as elsewhere:
        rest: Any = await elsewhere.responses.retrieve(
            seen[0].response.id, stream=True, starting_after=seen[-1].sequence_number
        )
        seen += [event async for event in rest]
    assert [event.sequence_number for event in seen] == list(range(len(seen)))
    assert seen[-1].response.output_text == answer_to("a", 200)


async def test_a_drained_stream_of_a_background_response_says_that_it_goes_on(
    client: openai.AsyncOpenAI, front: Front
) -> None:
    stream: Any = await client.responses.create(
        model=MODEL, input="a", background=True, stream=True, max_output_tokens=50_000
    )
    seen: list[Any] = [await anext(aiter(stream))]
    draining = asyncio.create_task(front.parts.drain.run(20))
    seen += [event async for event in stream]
    await draining
    assert (seen[-1].type, seen[-1].code) == ("error", "draining")
    assert seen[-1].sequence_number == seen[-2].sequence_number
    assert "the response goes on" in seen[-1].message
    assert "starting_after=N" in seen[-1].message
    await client.responses.cancel(seen[0].response.id)


async def test_cancel_stops_a_background_response(
    client: openai.AsyncOpenAI, stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handlers, "CANCEL_WAIT_S", LIVENESS_S)
    asked: Any = await client.responses.create(
        model=MODEL, input="a", background=True, max_output_tokens=50_000
    )
    answer: Any = await client.responses.cancel(asked.id)
    assert answer.status == "cancelled"
    assert (await client.responses.cancel(asked.id)).status == "cancelled"
    await wait_until(stack.idle)
    done: Any = await client.responses.create(model=MODEL, input="a")
    with pytest.raises(openai.BadRequestError, match="background"):
        await client.responses.cancel(done.id)


async def test_deleted_response_is_gone_for_good(client: openai.AsyncOpenAI, kept: Any) -> None:
    answer: Any = await client.responses.create(model=MODEL, input="a")
    await kept.document(answer.id.removeprefix("resp_"))
    await client.responses.delete(answer.id)
    again: Any
    for again in (client.responses.retrieve, client.responses.delete):
        with pytest.raises(openai.NotFoundError):
            await again(answer.id)
    with pytest.raises(openai.BadRequestError) as refused:
        await client.responses.create(model=MODEL, input="b", previous_response_id=answer.id)
    assert refused.value.code == "previous_response_not_found"


async def test_deleted_one_that_runs_is_unknown_at_once_everywhere(
    client: openai.AsyncOpenAI, stack: Stack, front: Front
) -> None:
    asked: Any = await client.responses.create(
        model=MODEL, input="a", background=True, max_output_tokens=50_000
    )

    async def runs() -> bool:
        return bool((await client.responses.retrieve(asked.id)).status == "in_progress")

    await wait_until(runs)
    past = f"/v1/responses/{asked.id}?stream=true&starting_after=1000000"
    async with front.get(past, headers=client.auth_headers) as response:
        assert (response.status, (await response.json())["error"]["code"]) == (409, "log_rewound")
    other = await stack.front(WATCH_LEASE_S="60")
    channel = f"/v1/channels/{asked.id.removeprefix('resp_')}"
    async with other.get(channel, headers=client.auth_headers) as response:
        assert response.status == 200
    await client.responses.delete(asked.id)
    for one in (front, other):
        for path in (channel, f"{channel}/events", f"/v1/responses/{asked.id}"):
            async with one.get(path, headers=client.auth_headers) as response:
                assert response.status == 404, path
    assert await wait_until(stack.idle)


async def test_conversation_goes_on_without_input(client: openai.AsyncOpenAI) -> None:
    first: Any = await client.responses.create(model=MODEL, input="a")
    again: Any = await client.responses.create(model=MODEL, previous_response_id=first.id)
    assert again.status == "completed"
    assert again.usage.input_tokens > first.usage.input_tokens
    assert (await client.responses.input_items.list(again.id)).data == []
    counted = await client.responses.input_tokens.count(model=MODEL, previous_response_id=first.id)
    assert counted.input_tokens == again.usage.input_tokens


async def test_output_needs_its_call_in_the_conversation(client: openai.AsyncOpenAI) -> None:
    called: Any = await client.responses.create(model=MODEL, input=say(CALL), tools=[TOOL])
    (call,) = [one for one in called.output if one.type == "function_call"]
    output: Any = {"type": "function_call_output", "call_id": call.call_id, "output": "rain"}
    again: Any = call.model_dump()
    wrong: Any
    for wrong, at in (
        ([again, output], 0),
        ([output, output], 1),
        ([{**output, "call_id": "x"}], 0),
    ):
        with pytest.raises(openai.BadRequestError, match="call_id") as refused:
            await client.responses.create(model=MODEL, input=wrong, previous_response_id=called.id)
        assert refused.value.param == f"input.{at}.call_id"
    answer: Any = await client.responses.create(
        model=MODEL, input=[output], previous_response_id=called.id
    )
    assert answer.status == "completed"


@pytest.mark.parametrize("path", ["", "/input_items"])
async def test_what_cannot_be_included_is_named(
    client: openai.AsyncOpenAI, front: Front, path: str
) -> None:
    answer: Any = await client.responses.create(model=MODEL, input="a", max_output_tokens=1)
    known = "include[]=message.output_text.logprobs&include[]=reasoning.encrypted_content"
    url, key = f"/v1/responses/{answer.id}{path}", client.auth_headers
    async with front.get(f"{url}?{known}", headers=key) as response:
        assert response.status == 200
    for one in ("include", "include[]"):
        query = f"{known}&{one}=file_search_call.results"
        async with front.get(f"{url}?{query}", headers=key) as response:
            error = (await response.json())["error"]
        assert (response.status, error["param"]) == (400, one)
        assert error["code"] == "unsupported_value"
        assert "'file_search_call.results'" in error["message"]
    # No other parameter makes sense twice; both routes have one of these two.
    for query, one in (("limit=1&limit=2", "limit"), ("stream=true&stream=false", "stream")):
        async with front.get(f"{url}?{query}", headers=key) as response:
            error = (await response.json())["error"]
        assert error["message"] == f"{one}: given more than once"
        assert (response.status, error["param"]) == (400, one)


async def test_input_items_are_paged(client: openai.AsyncOpenAI) -> None:
    items: Any = [{"role": "user", "content": f"{n}"} for n in range(25)]
    answer: Any = await client.responses.create(model=MODEL, input=items, max_output_tokens=1)
    page: Any = await client.responses.input_items.list(answer.id, limit=10, order="asc")
    texts = [one.content[0].text async for one in page]
    assert texts == [f"{n}" for n in range(25)]
    first: Any = await client.responses.input_items.list(answer.id)
    assert len(first.data) == 20
    assert first.data[0].content[0].text == "24"


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
async def test_compact_is_no_response(front: Front, method: str) -> None:
    async with front.session.request(method, "/v1/responses/compact", json={}) as response:
        error = (await response.json())["error"]
    assert (response.status, error["message"]) == (404, "there is no /v1/responses/compact")


async def test_input_tokens_are_counted(client: openai.AsyncOpenAI) -> None:
    counted: Any = await client.responses.input_tokens.count(model=MODEL, input="a")
    answer: Any = await client.responses.create(model=MODEL, input="a")
    assert counted.input_tokens == answer.usage.input_tokens


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"tools": [{"type": "web_search"}]}, "tools.0.type", "unsupported_value"),
        ({"conversation": "conv_1"}, "conversation", "unsupported_parameter"),
        ({"prompt": {"id": "p"}}, "prompt", "unsupported_parameter"),
        ({"truncation": "auto"}, "truncation", "unsupported_value"),
        ({"top_logprobs": 2}, "top_logprobs", "invalid_value"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input.0.type", "unsupported_value"),
        ({"input": []}, "input", "invalid_value"),
        ({"input": None}, "input", "missing_required_parameter"),
        ({"input": [OUTPUT]}, "input.0.call_id", "invalid_value"),
        ({"input": [CALLED, OUTPUT, OUTPUT]}, "input.2.call_id", "invalid_value"),
        ({"input": [CALLED, CALLED, OUTPUT]}, "input.1.call_id", "invalid_value"),
        ({"previous_response_id": "resp_x"}, "previous_response_id", "previous_response_not_found"),
        ({"tool_choice": {"type": "function", "name": "f"}}, "tool_choice", "invalid_value"),
        (allowing({"type": "function", "name": "f"}), "tool_choice", "invalid_value"),
        (allowing({"type": "mcp"}), "tool_choice.tools.0.type", "unsupported_value"),
        ({"tools": [TOOL], "tool_choice": {"type": "mcp"}}, "tool_choice.type", "unsupported_value"),
        ({"nonsense": 1}, "nonsense", "unknown_parameter"),
        ({"input": ["hi"]}, "input.0", "invalid_type"),
        ({"input": [{"type": 5}]}, "input.0.type", "unsupported_value"),
    ],
)  # fmt: skip
async def test_what_is_wrong_is_named_and_queues_nothing(
    front: Front, stack: Stack, fields: dict[str, Any], param: str, code: str
) -> None:
    async with front.post("/v1/responses", {"model": MODEL, "input": "a", **fields}) as response:
        error = (await response.json())["error"]
    assert (response.status, error["param"], error["code"]) == (400, param, code)
    assert await stack.idle()


async def test_what_the_engine_refuses_is_named_as_responses_name_it(
    client: openai.AsyncOpenAI, front: Front
) -> None:
    long = "a" * 3_000_00
    with pytest.raises(openai.BadRequestError) as refused:
        await client.responses.create(model=MODEL, input=long)
    assert (refused.value.param, refused.value.code) == ("input", "context_length_exceeded")
    events = await streamed(client, input=long, background=True)
    assert [event.type for event in events] == [
        "response.created",
        "response.queued",
        "response.failed",
    ]
    error = events[-1].response.error
    assert (error.code, error.type, error.param) == (
        "invalid_prompt",
        "context_length_exceeded",
        "input",
    )


TWO = CALL.replace("Lyon", "Nice")


@pytest.mark.parametrize(
    ("said", "kinds"),
    [
        (f"<think>a</think>b{CALL}{TWO[:55]}", "reasoning message function_call function_call"),
        (f"b{TWO[:25]}", "message"),
        ("<tool_call>garbage</tool_call>", "message"),
        (f"{CALL}b", "function_call message"),
        (f"{CALL}b{TWO}", "function_call message function_call"),
        ("<think>a</think>b<think>c</think>d", "reasoning message reasoning message"),
    ],
)
async def test_an_answer_is_the_same_streamed_whole_kept_and_in_a_chain(
    client: openai.AsyncOpenAI, said: str, kinds: str
) -> None:
    asked: Any = {"input": say(said), "tools": [TOOL]}
    response = (await streamed(client, **asked))[-1].response
    kept = await client.responses.retrieve(response.id)
    assert [one.type for one in response.output] == kinds.split()
    assert kept.output == response.output

    whole: Any = await client.responses.create(model=MODEL, **asked)
    assert content(whole) == content(response)

    results: Any = [
        {"type": "function_call_output", "call_id": one.call_id, "output": "rain"}
        for one in response.output
        if one.type == "function_call"
    ]
    again: Any = await client.responses.create(
        model=MODEL,
        input=[*results, {"role": "user", "content": "x"}],
        previous_response_id=kept.id,
    )
    assert again.status == "completed"


def content(response: Any) -> list[tuple[str, str]]:
    """What a response says, without what it is known by."""
    return [
        (one.type, one.arguments if one.type == "function_call" else one.content[0].text)
        for one in response.output
    ]
