"""`/v1/messages` through Anthropic's official client."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import anthropic
import pytest
from anthropic import beta_async_tool
from anthropic.types import Message
from yarl import URL

from relais_testing.builders import MODEL
from relais_testing.stack import Front, Stack, answer_to
from relais_testing.waiting import LIVENESS_S

TOOL: dict[str, Any] = {
    "name": "weather",
    "description": "The weather in a city.",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}},
}
CALL = '<tool_call>{"name": "weather", "arguments": {"city":"Lyon"}}</tool_call>'


@pytest.fixture
async def front(stack: Stack) -> Front:
    return await stack.front(
        WATCH_LEASE_S="60", MODEL_ALIASES=json.dumps({"claude-sonnet-5": MODEL})
    )


@pytest.fixture
async def claude(front: Front) -> AsyncIterator[anthropic.AsyncAnthropic]:
    """The official client of that orchestrator; it does not try again."""
    async with anthropic.AsyncAnthropic(
        base_url=front.url, api_key="any", max_retries=0, timeout=LIVENESS_S
    ) as client:
        yield client


def asked(content: Any = "hello", **fields: Any) -> Any:
    return {
        "model": MODEL,
        "max_tokens": 512,
        "messages": [{"role": "user", "content": content}],
        **fields,
    }


def say(said: str) -> str:
    return f"[say]{said}[/say]"


async def whole(claude: anthropic.AsyncAnthropic, *args: Any, **fields: Any) -> Message:
    message: Message = await claude.messages.create(**asked(*args, **fields))
    return message


async def streamed(claude: anthropic.AsyncAnthropic, *args: Any, **fields: Any) -> Message:
    """The answer as the official client puts it together from a stream."""
    async with claude.messages.stream(**asked(*args, **fields)) as stream:
        return await stream.get_final_message()


both = pytest.mark.parametrize("answered", [whole, streamed])


@both
@pytest.mark.usefixtures("worker")
async def test_text(claude: anthropic.AsyncAnthropic, answered: Any) -> None:
    message = await answered(claude, max_tokens=8)
    (block,) = message.content
    assert (block.type, block.text) == ("text", answer_to("hello", 8))
    assert (message.role, message.model, message.stop_reason) == ("assistant", MODEL, "max_tokens")
    assert message.id.startswith("msg_")
    assert message.usage.input_tokens == len("<user>hello<assistant>")
    assert message.usage.output_tokens == 8
    assert message.usage.cache_read_input_tokens == 0


@both
@pytest.mark.usefixtures("worker")
async def test_a_model_answers_to_a_well_known_name(
    claude: anthropic.AsyncAnthropic, answered: Any
) -> None:
    message = await answered(claude, model="claude-sonnet-5", max_tokens=2)
    assert message.content[0].text == answer_to("hello", 2)


@both
@pytest.mark.usefixtures("worker")
async def test_more_tokens_than_the_context_has_end_the_answer_with_it(
    claude: anthropic.AsyncAnthropic, answered: Any
) -> None:
    message = await answered(claude, say("short"), max_tokens=1_000_000)
    assert (message.content[0].text, message.stop_reason) == ("short", "end_turn")


@both
@pytest.mark.usefixtures("worker")
async def test_stop_sequences(claude: anthropic.AsyncAnthropic, answered: Any) -> None:
    message = await answered(claude, say("one two three"), stop_sequences=["three", " two"])
    assert (message.content[0].text, message.stop_reason) == ("one", "stop_sequence")
    assert message.stop_sequence == " two"


@both
@pytest.mark.usefixtures("worker")
async def test_a_tool_round_trip(claude: anthropic.AsyncAnthropic, answered: Any) -> None:
    first = await answered(claude, say(f"I look.{CALL}"), tools=[TOOL])
    text, call = first.content
    assert (text.text, first.stop_reason) == ("I look.", "tool_use")
    assert (call.type, call.name, call.input) == ("tool_use", "weather", {"city": "Lyon"})
    result = {"type": "tool_result", "tool_use_id": call.id, "content": "21 degrees"}
    turns = [
        {"role": "user", "content": "hello"},
        first.to_param(),
        {"role": "user", "content": [result, {"type": "text", "text": say("It is warm.")}]},
    ]
    second = await answered(claude, messages=turns, tools=[TOOL])
    assert (second.content[0].text, second.stop_reason) == ("It is warm.", "end_turn")


@both
@pytest.mark.usefixtures("worker")
@pytest.mark.parametrize("choice", [{"type": "any"}, {"type": "tool", "name": "weather"}])
async def test_a_tool_must_be_called(
    claude: anthropic.AsyncAnthropic, answered: Any, choice: Any
) -> None:
    message = await answered(claude, tools=[TOOL], tool_choice=choice)
    assert (message.stop_reason, message.content[-1].type) == ("tool_use", "tool_use")


@both
@pytest.mark.usefixtures("worker")
async def test_no_tool_is_called_where_none_may_be(
    claude: anthropic.AsyncAnthropic, answered: Any
) -> None:
    message = await answered(claude, say("no"), tools=[TOOL], tool_choice={"type": "none"})
    assert (message.content[0].text, message.stop_reason) == ("no", "end_turn")


@both
@pytest.mark.usefixtures("worker")
async def test_thinking_comes_first_and_may_be_sent_back(
    claude: anthropic.AsyncAnthropic, answered: Any
) -> None:
    thinking = {"type": "enabled", "budget_tokens": 256}
    first = await answered(claude, say("<think>Hm.</think>Yes."), thinking=thinking)
    thought, text = first.content
    assert (thought.type, thought.thinking, text.text) == ("thinking", "Hm.", "Yes.")
    assert thought.signature
    details = first.usage.output_tokens_details
    assert details is not None
    assert details.thinking_tokens > 0
    turns = [
        {"role": "user", "content": "hello"},
        first.to_param(),
        {"role": "user", "content": say("Fine.")},
    ]
    second = await answered(claude, messages=turns, thinking={"type": "adaptive"})
    assert second.content[-1].text == "Fine."


@pytest.mark.usefixtures("worker")
async def test_tokens_are_counted_as_the_prompt_has_them(claude: anthropic.AsyncAnthropic) -> None:
    request = asked("hello", system="Be kind.")
    message = await claude.messages.create(**request)
    del request["max_tokens"]
    count = await claude.messages.count_tokens(**request)
    assert (
        count.input_tokens
        == message.usage.input_tokens
        == len("<system>Be kind.<user>hello<assistant>")
    )


async def test_models_have_anthropic_s_form(claude: anthropic.AsyncAnthropic) -> None:
    names = [model.id async for model in claude.models.list(limit=1)]
    assert names == [MODEL, "claude-sonnet-5"]
    model = await claude.models.retrieve(MODEL)
    assert (model.id, model.display_name, model.type) == (MODEL, MODEL, "model")
    backwards = await claude.models.list(limit=1, before_id="claude-sonnet-5")
    assert ([one.id for one in backwards.data], backwards.has_more) == ([MODEL], False)
    with pytest.raises(anthropic.NotFoundError) as caught:
        await claude.models.retrieve("nobody/knows")
    assert caught.value.type == "not_found_error"
    with pytest.raises(anthropic.BadRequestError):
        await claude.models.list(after_id="nobody/knows")


@pytest.mark.usefixtures("worker")
async def test_events_come_in_anthropic_s_order(front: Front) -> None:
    body = asked(say(f"<think>Hm.</think>I look.{CALL}{CALL}"), tools=[TOOL], stream=True)
    async with front.post("/v1/messages?beta=true", body) as response:
        assert response.headers["Content-Type"].startswith("text/event-stream")
        frames = (await response.text()).split("\n\n")[:-1]
    events = []
    for frame in frames:
        name, data = frame.split("\n")
        event = json.loads(data.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        events.append(event)
    names = [event["type"] for event in events if event["type"] != "ping"]
    places = [event["index"] for event in events if "index" in event]
    assert (names[0], names[-2:]) == ("message_start", ["message_delta", "message_stop"])
    assert events[1]["type"] == "ping"
    assert places == sorted(places)
    starts = [one["content_block"]["type"] for one in events if "content_block" in one]
    assert starts == ["thinking", "text", "tool_use", "tool_use"]
    assert names.count("content_block_start") == names.count("content_block_stop") == 4


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"temperature": 2}, "temperature"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"nope": 1}, "nope"),
        ({"messages": [{"role": "assistant", "content": "x"}]}, "messages"),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools.0.type"),
        ({"tools": [{"type": "bash_20250124", "name": "bash"}]}, "tools.0.type"),
        ({"container": "c"}, "container"),
    ],
)
async def test_bad_input_names_the_field_and_queues_nothing(
    claude: anthropic.AsyncAnthropic, stack: Stack, fields: Any, param: str
) -> None:
    with pytest.raises(anthropic.BadRequestError) as caught:
        await claude.messages.create(**asked(), extra_body=fields)
    error = caught.value
    assert (error.type, error.request_id) == ("invalid_request_error", error.body["request_id"])  # type: ignore[index]
    assert error.body["error"]["details"]["param"] == param  # type: ignore[index]
    assert param in str(error.api_message)
    assert await stack.idle()


async def test_errors_by_class(stack: Stack, front: Front, tmp_path: Any) -> None:
    keys = tmp_path / "keys.json"
    keys.write_text(json.dumps({"a": {"key": "a-good-key-of-a-client", "max_priority": "normal"}}))
    keys.chmod(0o600)
    closed = await stack.front(
        ENV="staging", API_KEYS=str(keys), MAX_WAITING="1", MAX_BODY_BYTES="4000"
    )
    options: Any = {"base_url": closed.url, "max_retries": 0, "timeout": LIVENESS_S}
    async with anthropic.AsyncAnthropic(api_key="wrong", **options) as stranger:
        with pytest.raises(anthropic.AuthenticationError) as unknown:
            await stranger.messages.create(**asked())
        assert unknown.value.type == "authentication_error"
    async with anthropic.AsyncAnthropic(api_key="a-good-key-of-a-client", **options) as client:
        with pytest.raises(anthropic.NotFoundError) as missing:
            await client.messages.create(**asked(model="nobody/knows"))
        assert missing.value.type == "not_found_error"
        with pytest.raises(anthropic.PermissionDeniedError) as forbidden:
            await client.messages.create(**asked(), extra_body={"priority": "high"})
        assert forbidden.value.type == "permission_error"
        with pytest.raises(anthropic.APIStatusError) as large:
            await client.messages.create(**asked("x" * 5000))
        assert (large.value.status_code, large.value.body["error"]["type"]) == (  # type: ignore[index]
            413,
            "request_too_large",
        )
        body = asked()
        del body["max_tokens"]
        waits = {"model": MODEL, "messages": body["messages"]}
        headers = {"X-Api-Key": "a-good-key-of-a-client"}
        async with closed.post("/v1/requests", waits, headers=headers) as response:
            assert response.status == 202
        with pytest.raises(anthropic.RateLimitError) as full:
            await client.messages.create(**asked())
        assert (full.value.type, full.value.error_code) == ("rate_limit_error", "queue_full")
        assert int(full.value.response.headers["retry-after"]) >= 1
        closed.parts.drain.started = True
        with pytest.raises(anthropic.InternalServerError) as draining:
            await client.messages.create(**asked())
        assert (draining.value.type, draining.value.status_code) == ("overloaded_error", 503)


@both
@pytest.mark.usefixtures("worker")
async def test_an_engine_s_refusal_is_a_status(
    claude: anthropic.AsyncAnthropic, answered: Any
) -> None:
    with pytest.raises(anthropic.BadRequestError) as caught:
        await answered(claude, "x" * 100_000)
    assert "prompt is too long" in str(caught.value.api_message)


@both
@pytest.mark.usefixtures("worker")
@pytest.mark.parametrize("older", [False, True])
async def test_what_an_engine_refuses_is_named_as_messages_name_it(
    claude: anthropic.AsyncAnthropic, answered: Any, older: bool
) -> None:
    shape = {"type": "json_schema", "schema": {"type": "object"}}
    fields = {"output_format": shape} if older else {"output_config": {"format": shape}}
    with pytest.raises(anthropic.BadRequestError) as caught:
        await answered(claude, extra_body=fields)
    assert caught.value.body["error"]["details"]["param"] == "output_config.format"  # type: ignore[index]


@pytest.mark.parametrize("counts", [False, True])
async def test_an_image_that_is_not_fetched_is_named_as_the_body_has_it(
    front: Front, stack: Stack, counts: bool
) -> None:
    # The system prompt is the job's first message.
    source = {"type": "url", "url": "https://example.org/a.png"}
    body = asked([{"type": "image", "source": source}], system="Be brief.")
    if counts:
        del body["max_tokens"]
    path = "/v1/messages/count_tokens" if counts else "/v1/messages"
    async with front.post(path, body) as response:
        error = (await response.json())["error"]
    named = "messages.0.content.0.source"
    assert (response.status, error["details"]["param"]) == (400, named)
    assert error["message"].startswith(f"{named}: ")
    assert await stack.idle()


@pytest.mark.usefixtures("worker")
async def test_a_failure_in_a_stream_is_an_event(claude: anthropic.AsyncAnthropic) -> None:
    with pytest.raises(anthropic.APIStatusError) as caught:
        await streamed(claude, "[engine-fault]")
    assert caught.value.body["error"]["type"] == "api_error"  # type: ignore[index]


@pytest.mark.parametrize("method", ["GET", "DELETE"])
async def test_other_methods_and_paths_have_anthropic_s_errors(front: Front, method: str) -> None:
    async with front.session.request(method, "/v1/messages") as response:
        assert response.status == 405
        told = await response.json()
        assert told["type"] == "error"
        assert told["request_id"] == response.headers["request-id"]
    async with front.get("/v1/messages/batches") as response:
        assert response.status == 404
        assert (await response.json())["error"]["type"] == "not_found_error"


async def test_whatever_refuses_anthropic_s_clients_has_its_shape(
    stack: Stack, tmp_path: Any
) -> None:
    keys = tmp_path / "keys.json"
    limited = {"key": "a-key-with-few-requests", "requests_per_minute": 1}
    keys.write_text(json.dumps({"a": {"key": "a-good-key-of-a-client"}, "b": limited}))
    keys.chmod(0o600)
    front = await stack.front(ENV="staging", API_KEYS=str(keys), MAX_BODY_BYTES="4000")
    path = "/v1/messages"
    good = {"X-Api-Key": "a-good-key-of-a-client"}
    few = {"X-Api-Key": "a-key-with-few-requests"}
    for method, url, headers, body, status in (
        ("GET", "/v1/nope", good, b"", 404),
        ("GET", "/v1//nope", good, b"", 404),
        ("DELETE", "/v1/chat/completions", good, b"", 405),
        ("POST", path, {}, b"{}", 401),
        ("POST", path, good, b"{}", 400),
        ("POST", path, good, b"x" * 5000, 413),
        ("POST", path, {**good, "Content-Type": "text/plain"}, b"{}", 415),
        ("POST", path, {**good, "Content-Encoding": "gzip"}, b"{}", 415),
        ("POST", path, few, b"{}", 400),
        ("POST", path, few, b"{}", 429),
    ):
        version = {"anthropic-version": "2023-06-01"}
        async with front.session.request(
            method, URL(url, encoded=True), data=body, headers=headers | version
        ) as response:
            told = await response.json()
        assert (response.status, told["type"]) == (status, "error"), url
        assert told["request_id"] == response.headers["request-id"]


@pytest.mark.usefixtures("worker")
async def test_the_client_s_tool_runner_goes_on_without_a_thread(
    claude: anthropic.AsyncAnthropic,
) -> None:
    async def weather(city: str) -> str:
        """The weather in a city."""
        return f"rain in {city}"

    request = asked("hello", max_tokens=8)
    runner = claude.beta.messages.tool_runner(**request, tools=[beta_async_tool(weather)])
    message = await runner.until_done()
    assert (message.content[0].type, message.stop_reason) == ("text", "max_tokens")


@pytest.mark.usefixtures("worker")
@pytest.mark.parametrize(
    "said",
    [
        f"<think>a</think>b{CALL}c",
        f"{CALL}b{CALL}",
        "<tool_call>garbage</tool_call>",
        "<think>a</think>b<think>c</think>d",
    ],
)
async def test_an_answer_is_the_same_streamed_and_whole(
    claude: anthropic.AsyncAnthropic, said: str
) -> None:
    told = [await answered(claude, say(said), tools=[TOOL]) for answered in (whole, streamed)]
    assert plain(told[0]) == plain(told[1])


def plain(message: Message) -> list[dict[str, Any]]:
    """Its blocks, without what they are known by."""
    return [
        one.model_dump(include={"type", "text", "thinking", "name", "input"}, exclude_none=True)
        for one in message.content
    ]
