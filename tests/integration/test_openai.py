"""The OpenAI routes, through the official client and by the byte."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import aiohttp
import openai
import pytest

from relais_testing.builders import MODEL
from relais_testing.sse_client import read_events, sse_events
from relais_testing.stack import Front, Stack, answer_to, answer_to_prompt, chat_request
from relais_testing.waiting import wait_until
from relais_testing.worker import Worker

CHAT, COMPLETION = "/v1/chat/completions", "/v1/completions"
LONG = "a" * 600

SAID_BACK: dict[str, Any] = {
    "annotations": [{"type": "url_citation", "url_citation": {"url": "https://example.org"}}],
    "audio": None,
    "function_call": None,
    "images": [],
    "parsed": None,
    "provider_specific_fields": {},
    "reasoning": None,
    "reasoning_content": "",
    "reasoning_details": [],
    "refusal": None,
    "thinking_blocks": None,
    "tool_calls": [],
}
"""What messages of other servers have beside their text."""

TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]


@pytest.fixture
async def front(stack: Stack) -> Front:
    """One on which a stall of the whole machine ends no request."""
    return await stack.front(WATCH_LEASE_S="60")


async def stream_data(response: aiohttp.ClientResponse) -> list[str]:
    assert response.status == 200
    return [event.data async for event in sse_events(response)]


@pytest.mark.usefixtures("worker")
async def test_chat_with_the_official_client(client: openai.AsyncOpenAI) -> None:
    answer = await client.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": "a"}], max_tokens=20, temperature=0.5
    )
    assert answer.object == "chat.completion"
    assert answer.model == MODEL
    (choice,) = answer.choices
    assert choice.message.content == answer_to("a", 20)
    assert (choice.finish_reason, choice.message.role) == ("length", "assistant")
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 20
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 20


@pytest.mark.usefixtures("worker")
async def test_chat_stream_with_the_official_client(client: openai.AsyncOpenAI) -> None:
    stream = await client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": "a"}],
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = [chunk async for chunk in stream]
    assert len({chunk.id for chunk in chunks}) == 1
    *pieces, usage = chunks
    assert pieces[0].choices[0].delta.role == "assistant"
    text = "".join(chunk.choices[0].delta.content or "" for chunk in pieces)
    assert text == answer_to("a")
    assert [chunk.choices[0].finish_reason for chunk in pieces[-2:]] == [None, "stop"]
    assert usage.choices == []
    assert usage.usage is not None
    assert usage.usage.completion_tokens == 32


@pytest.mark.usefixtures("worker")
async def test_chat_template_is_told_what_it_is_to_be_told(front: Front) -> None:
    told = {"enable_thinking": False}
    expected = answer_to_prompt("<enable_thinking>False<user>a<assistant>", 8)
    body = chat_request("a", max_tokens=8, chat_template_kwargs=told)
    async with front.post("/v1/chat/completions", body) as response:
        answer = await response.json()
    assert answer["choices"][0]["message"]["content"] == expected
    body = chat_request("a", params={"max_tokens": 8}, chat_template_kwargs=told)
    channel_id = await front.submit(body)
    await wait_until(lambda: front.is_terminal(channel_id))
    assert (await front.state(channel_id))["result"]["text"] == expected


@pytest.mark.usefixtures("worker")
async def test_the_name_of_who_speaks_reaches_the_chat_template(front: Front) -> None:
    turns = [{"role": "user", "content": "a", "name": "Ada"}]
    body = {"model": MODEL, "messages": turns, "max_tokens": 8}
    async with front.post("/v1/chat/completions", body) as response:
        answer = await response.json()
    expected = answer_to_prompt("<user Ada>a<assistant>", 8)
    assert answer["choices"][0]["message"]["content"] == expected


@pytest.mark.usefixtures("worker")
@pytest.mark.parametrize("field", SAID_BACK)
async def test_a_message_of_another_server_may_be_sent_back(front: Front, field: str) -> None:
    said = {"role": "assistant", "content": "b", field: SAID_BACK[field]}
    turns = [{"role": "user", "content": "a"}, said, {"role": "user", "content": "c"}]
    body = {"model": MODEL, "messages": turns, "max_tokens": 8}
    async with front.post("/v1/chat/completions", body) as response:
        answer = await response.json()
    expected = answer_to_prompt("<user>a<assistant>b<user>c<assistant>", 8)
    assert answer["choices"][0]["message"]["content"] == expected


@pytest.mark.usefixtures("worker")
@pytest.mark.parametrize(
    "fields", [{"tools": []}, {"tools": TOOLS, "tool_choice": "none"}, {"functions": []}]
)
async def test_tools_that_are_not_to_be_called_do_no_harm(
    front: Front, fields: dict[str, Any]
) -> None:
    body = chat_request("a", max_tokens=8, **fields)
    async with front.post("/v1/chat/completions", body) as response:
        answer = await response.json()
    assert answer["choices"][0]["message"]["content"] == answer_to("a", 8)


@pytest.mark.usefixtures("worker")
@pytest.mark.parametrize(
    "body",
    [{"messages": [{"role": "user", "content": "a"}]}, {"prompt": "abcd"}],
    ids=["chat", "completion"],
)
async def test_every_chunk_has_the_usage_so_far_where_it_is_asked_for(
    front: Front, body: dict[str, Any]
) -> None:
    asked = {
        **body,
        "model": MODEL,
        "max_tokens": 5,
        "stream": True,
        "stream_options": {"include_usage": True, "continuous_usage_stats": True},
    }
    path = "/v1/chat/completions" if "messages" in body else "/v1/completions"
    async with front.post(path, asked) as response:
        lines = (await response.read()).decode().split("\n\n")
    chunks = [
        json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: {")
    ]
    prompt_tokens = chunks[-1]["usage"]["prompt_tokens"]
    assert {one["usage"]["prompt_tokens"] for one in chunks} == {prompt_tokens}
    head = [0] if "messages" in body else []
    counts = [one["usage"]["completion_tokens"] for one in chunks]
    assert counts == [*head, 1, 2, 3, 4, 5, 5, 5]
    totals = [one["usage"]["total_tokens"] for one in chunks]
    assert totals == [prompt_tokens + count for count in counts]


@pytest.mark.usefixtures("worker")
async def test_text_completion_with_the_official_client(client: openai.AsyncOpenAI) -> None:
    for prompt in ("abc", list(b"abc"), ["abc"], [list(b"abc")]):
        answer = await client.completions.create(model=MODEL, prompt=prompt)
        assert answer.object == "text_completion"
        assert answer.choices[0].text == answer_to_prompt("abc", 16)  # OpenAI's default length
        assert answer.choices[0].finish_reason == "length"
    stream = await client.completions.create(model=MODEL, prompt="abc", max_tokens=5, stream=True)
    chunks = [chunk async for chunk in stream]
    assert "".join(chunk.choices[0].text for chunk in chunks) == answer_to_prompt("abc", 5)
    assert chunks[-1].choices[0].finish_reason == "length"
    assert all(chunk.usage is None for chunk in chunks)


@pytest.mark.usefixtures("worker")
async def test_stop_strings_end_the_answer_before_them(client: openai.AsyncOpenAI) -> None:
    words = answer_to("a").split(" ")
    stop = f"{words[4]} {words[5][:2]}"
    expected = answer_to("a").partition(stop)[0]
    answer = await client.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": "a"}], stop=stop
    )
    assert answer.choices[0].message.content == expected
    assert answer.choices[0].finish_reason == "stop"


@pytest.mark.usefixtures("worker")
async def test_probabilities_are_the_same_streamed_and_whole(client: openai.AsyncOpenAI) -> None:
    asked: dict[str, Any] = {
        "model": MODEL,
        "messages": [{"role": "user", "content": "a"}],
        "logprobs": True,
        "top_logprobs": 3,
    }
    whole = (await client.chat.completions.create(**asked)).choices[0]
    assert whole.logprobs is not None
    content = whole.logprobs.content or []
    assert "".join(one.token for one in content) == answer_to("a")
    assert {len(one.top_logprobs) for one in content} == {3}
    streamed = [
        one
        async for chunk in await client.chat.completions.create(**asked, stream=True)
        if chunk.choices and chunk.choices[0].logprobs
        for one in chunk.choices[0].logprobs.content or ()
    ]
    assert streamed == content
    bare = await client.chat.completions.create(**{**asked, "top_logprobs": None})
    assert bare.choices[0].logprobs is not None
    assert [one.top_logprobs for one in bare.choices[0].logprobs.content or ()] == [[]] * 32


@pytest.mark.usefixtures("worker")
async def test_probabilities_of_text_completions(client: openai.AsyncOpenAI) -> None:
    asked: dict[str, Any] = {"model": MODEL, "prompt": "abc", "logprobs": 2, "max_tokens": 9}
    whole = (await client.completions.create(**asked)).choices[0].logprobs
    assert whole is not None
    assert "".join(whole.tokens or ()) == answer_to_prompt("abc", 9)
    tokens: list[str] = []
    offsets: list[int] = []
    async for chunk in await client.completions.create(**asked, stream=True):
        if (told := chunk.choices[0].logprobs) is not None:
            tokens += told.tokens or []
            offsets += told.text_offset or []
    assert (tokens, offsets) == (whole.tokens, whole.text_offset)


async def test_models_are_listed_without_any_worker(client: openai.AsyncOpenAI) -> None:
    models = [model async for model in client.models.list()]
    assert [(model.id, model.object, model.owned_by) for model in models] == [
        (MODEL, "model", "relais")
    ]
    assert (await client.models.retrieve(MODEL)).id == MODEL
    with pytest.raises(openai.NotFoundError) as caught:
        await client.models.retrieve("nobody/knows")
    assert caught.value.code == "model_not_found"


@pytest.mark.usefixtures("worker")
async def test_official_client_raises_its_own_error_classes(client: openai.AsyncOpenAI) -> None:
    messages: Any = [{"role": "user", "content": "a"}]
    with pytest.raises(openai.NotFoundError) as missing:
        await client.chat.completions.create(model="nobody/knows", messages=messages)
    assert missing.value.param == "model"
    with pytest.raises(openai.BadRequestError) as wrong:
        await client.chat.completions.create(model=MODEL, messages=messages, temperature=9)
    assert (wrong.value.param, wrong.value.type) == ("temperature", "invalid_request_error")
    with pytest.raises(openai.InternalServerError) as broken:
        await client.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": "[engine-fault]"}]
        )
    assert broken.value.code == "engine_error"
    with pytest.raises(openai.APIError, match="the engine failed"):
        async for _ in await client.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": "[engine-fault]"}], stream=True
        ):
            pass


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.usefixtures("worker")
async def test_what_the_engine_refuses_is_a_400_before_any_byte_of_a_stream(
    client: openai.AsyncOpenAI, stream: bool
) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        await client.chat.completions.create(
            model=MODEL,
            messages=[{"role": "user", "content": "a"}],
            response_format={"type": "json_object"},
            stream=stream,
        )
    assert refused.value.param == "response_format"
    with pytest.raises(openai.BadRequestError) as too_long:
        await client.completions.create(
            model=MODEL, prompt="a" * 100, max_tokens=99_999, stream=stream
        )
    assert (too_long.value.code, too_long.value.param) == (
        "context_length_exceeded",
        "max_tokens",
    )


@pytest.mark.parametrize(
    ("path", "fields", "param"),
    [
        (CHAT, {"messages": [{"role": "user", "content": LONG}]}, "messages"),
        (COMPLETION, {"prompt": LONG}, "prompt"),
        (COMPLETION, {"prompt": [97] * len(LONG)}, "prompt"),
        (CHAT, {"messages": [{"role": "user", "content": "a"}], "max_tokens": 9999}, "max_tokens"),
    ],
)
async def test_what_exceeds_the_context_is_openai_s_error_on_every_route(
    front: Front, stack: Stack, path: str, fields: dict[str, Any], param: str
) -> None:
    await stack.worker(max_model_len=512)
    body = {"model": MODEL, **fields}
    errors = []
    for stream in (False, True):
        async with front.post(path, {**body, "stream": stream}) as response:
            assert response.status == 400
            errors.append((await response.json())["error"])
    sampling = {"params": {"max_tokens": body.pop("max_tokens")}} if "max_tokens" in body else {}
    channel_id = await front.submit({**body, **sampling})
    await wait_until(lambda: front.is_terminal(channel_id))
    errors.append((await front.state(channel_id))["error"])
    for error in errors:
        assert (error["code"], error["param"]) == ("context_length_exceeded", param)
        assert "This model's maximum context length is 512 tokens" in error["message"]


@pytest.mark.usefixtures("worker")
async def test_bytes_of_a_stream_are_openais(front: Front) -> None:
    async with front.post(CHAT, chat_request("a", stream=True, max_tokens=2)) as response:
        assert response.headers["Content-Type"] == "text/event-stream; charset=utf-8"
        data = await stream_data(response)
    assert data[-1] == "[DONE]"
    chunks = [json.loads(one) for one in data[:-1]]
    identity = {(one["id"], one["object"], one["model"], one["created"]) for one in chunks}
    assert len(identity) == 1
    assert [one["choices"][0]["finish_reason"] for one in chunks] == [None, None, None, "length"]
    assert not any("usage" in one for one in chunks)
    async with front.post(CHAT, chat_request("a", stream=False)) as response:
        assert response.content_type == "application/json"


@pytest.mark.usefixtures("worker")
async def test_fault_after_the_start_ends_a_stream_with_an_error_chunk_and_no_done(
    front: Front,
) -> None:
    async with front.post(CHAT, chat_request("[engine-fault]", stream=True)) as response:
        data = await stream_data(response)
    error = json.loads(data[-1])["error"]
    assert (error["code"], error["type"]) == ("engine_error", "server_error")
    assert "[DONE]" not in data
    async with front.post(CHAT, chat_request("[engine-fault]")) as response:
        assert response.status == 500
        assert (await response.json())["error"]["code"] == "engine_error"


async def test_long_wait_in_the_queue_starts_the_stream_with_comments(
    front: Front, stack: Stack
) -> None:
    async with front.post(CHAT, chat_request("a", stream=True)) as response:
        assert response.status == 200  # nobody works yet: the keep-alive let the headers go
        await stack.worker()
        data = await stream_data(response)
    assert data[-1] == "[DONE]"


async def test_cancel_by_another_connection_ends_an_open_answer(front: Front, stack: Stack) -> None:
    worker = await stack.worker(tokens_per_s=20)
    async with front.post(CHAT, chat_request(stream=True, max_tokens=10_000)) as response:
        channel_id = response.headers["X-Request-Id"]
        with worker.faults.cut_off():
            async with front.delete(f"/v1/channels/{channel_id}") as deleted:
                assert deleted.status == 202
        data = await stream_data(response)
    assert json.loads(data[-1])["error"]["code"] == "cancelled"
    assert "[DONE]" not in data
    await wait_until(lambda: not worker.engine.running)


async def test_full_queue_is_429_with_retry_after(stack: Stack) -> None:
    front = await stack.front(MAX_WAITING="2")
    for content in "ab":
        await front.submit(chat_request(content))
    for route, body in (
        ("/v1/requests", chat_request()),
        (CHAT, chat_request(stream=True)),
        (COMPLETION, {"model": MODEL, "prompt": "a"}),
    ):
        async with front.post(route, body) as response:
            assert response.status == 429
            assert int(response.headers["Retry-After"]) >= 1
            error = (await response.json())["error"]
        assert (error["type"], error["code"]) == ("rate_limit_error", "queue_full")
    worker = await stack.worker()
    await wait_until(stack.idle)
    assert await front.submit(chat_request("c"))
    await wait_until(lambda: not worker.engine.running)


async def test_deadline_that_passes_in_the_queue_expires_the_request(front: Front) -> None:
    channel_id = await front.submit(chat_request(deadline_s=0.3))
    waiting = front.post(CHAT, chat_request(deadline_s=0.3))
    events = await read_events(front.session, f"/v1/channels/{channel_id}/events")
    assert [event.name for event in events] == ["queued", "expired"]
    async with waiting as response:
        assert response.status == 504
        error = (await response.json())["error"]
    assert (error["type"], error["code"], error["param"]) == (
        "timeout_error",
        "expired",
        "deadline_s",
    )


async def test_deadline_that_passes_while_running_stops_the_work(
    front: Front, stack: Stack
) -> None:
    worker: Worker = await stack.worker(tokens_per_s=20)
    channel_id = await front.submit(chat_request(deadline_s=0.5, params={"max_tokens": 5000}))
    await wait_until(lambda: front.is_terminal(channel_id))
    assert await front.status(channel_id) == "expired"
    await wait_until(lambda: not worker.engine.running)


@pytest.mark.usefixtures("worker")
async def test_many_at_once_each_get_their_own_answer(client: openai.AsyncOpenAI) -> None:
    async def ask(content: str) -> str | None:
        answer = await client.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": content}]
        )
        return answer.choices[0].message.content

    contents = [f"question {i}" for i in range(40)]
    answers = await asyncio.gather(*map(ask, contents))
    assert list(answers) == [answer_to(content) for content in contents]


@pytest.mark.usefixtures("worker")
async def test_answer_may_be_sent_back_as_it_came(client: openai.AsyncOpenAI) -> None:
    messages: list[Any] = [{"role": "user", "content": "a"}]
    first = await client.chat.completions.create(model=MODEL, messages=messages)
    messages += [first.choices[0].message, {"role": "user", "content": "b"}]
    second = await client.chat.completions.create(model=MODEL, messages=messages)
    assert second.choices[0].message.content


@pytest.mark.usefixtures("worker")
async def test_of_two_bounds_on_the_answer_the_newer_name_counts(
    client: openai.AsyncOpenAI,
) -> None:
    answer = await client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": "a"}],
        max_tokens=3,
        max_completion_tokens=5,
    )
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 5
