"""Streams with ids in the words of OpenAI's and Anthropic's APIs, which go on at any orchestrator."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from relais_testing.builders import MODEL
from relais_testing.sse_client import SseEvent, sse_events
from relais_testing.stack import Front, Stack, answer_to, chat_request
from relais_testing.waiting import wait_until

RESUMABLE = {"X-Relais-Stream": "resumable"}
PATHS = {
    "openai": "/v1/chat/completions",
    "anthropic": "/v1/messages",
    "responses": "/v1/responses",
}
each = pytest.mark.parametrize("name", list(PATHS))


def asked(name: str, content: str = "a", **fields: Any) -> dict[str, Any]:
    if name == "responses":
        response = {"model": MODEL, "input": content, "max_output_tokens": 200, "stream": True}
        return {**response, **fields}
    return chat_request(content, max_tokens=200, stream=True, **fields)


async def read(response: Any, count: int = 10**9) -> list[SseEvent]:
    """Events with ids, and those that tell a position in the queue."""
    found: list[SseEvent] = []
    async for event in sse_events(response):
        found.append(event)
        if len(found) >= count:
            break
    return found


async def begin(front: Front, name: str, count: int, **fields: Any) -> tuple[list[SseEvent], str]:
    """The first events of a new stream, and where it goes on."""
    async with front.post(PATHS[name], asked(name, **fields), headers=RESUMABLE) as response:
        assert response.status == 200, await response.text()
        return await read(response, count), response.headers["X-Relais-Events-Url"]


async def go_on(front: Front, url: str, seen: list[SseEvent], count: int = 10**9) -> list[SseEvent]:
    last = next(event.id for event in reversed(seen) if event.id)
    async with front.get(url, headers={"Last-Event-ID": last}) as response:
        assert response.status == 200, await response.text()
        return await read(response, count)


def text_of(events: list[SseEvent]) -> str:
    text = ""
    for event in events:
        if event.data == "[DONE]" or event.name == "queued":
            continue
        body = event.json
        if event.name == "response.output_text.delta":
            text += body["delta"]
        elif not event.name.startswith("response."):
            for choice in body.get("choices", ()):
                text += choice["delta"].get("content", "")
            text += body.get("delta", {}).get("text", "")
    return text


def is_last(name: str, event: SseEvent) -> bool:
    if name == "responses":
        return event.name == "response.incomplete"
    return event.data == ("[DONE]" if name == "openai" else '{"type":"message_stop"}')


@each
async def test_a_stream_goes_on_at_another_orchestrator(stack: Stack, name: str) -> None:
    front, other = await stack.front(WATCH_LEASE_S="60"), await stack.front(WATCH_LEASE_S="60")
    await stack.worker(tokens_per_s=300)
    events, url = await begin(front, name, 40)
    for one, count in ((other, 70), (front, 30), (other, 10**9)):
        events += await go_on(one, url, events, count)
    assert text_of(events) == answer_to("a", 200)
    numbered = [event for event in events if event.id]
    async with other.get(url) as response:
        assert [event for event in await read(response) if event.id] == numbered
    assert is_last(name, numbered[-1])
    async with front.get(url, headers={"Last-Event-ID": numbered[-1].id}) as response:
        assert response.status == 204


@each
async def test_a_request_that_waits_tells_its_position(stack: Stack, name: str) -> None:
    front = await stack.front()
    # A response begins when it is queued.
    begun = ["response.created"] if name == "responses" else []
    events, url = await begin(front, name, 3 + len(begun))
    assert [event.name for event in events] == ["queued", *begun, "queued", "queued"]
    assert [event.id for event in events if event.id] == (["1.1", "1"] if begun else ["1"])
    assert events[-1].json == {"queue_position": 1, "estimated_wait_s": None}
    await stack.worker()
    events += await go_on(front, url, events)
    assert text_of(events) == answer_to("a", 200)


@each
async def test_any_chat_can_be_read_in_any_words(stack: Stack, name: str) -> None:
    front = await stack.front()
    await stack.worker()
    channel_id = await front.submit(chat_request("a", params={"max_tokens": 200}))
    async with front.get(f"/v1/channels/{channel_id}/events?format={name}") as response:
        assert text_of(await read(response)) == answer_to("a", 200)


async def test_options_of_the_stream_are_those_of_its_request(stack: Stack) -> None:
    front = await stack.front(WATCH_LEASE_S="60")
    await stack.worker()
    options = {"include_usage": True, "continuous_usage_stats": True}
    events, url = await begin(front, "openai", 5, stream_options=options)
    events += await go_on(front, url, events)
    chunks = [event.json for event in events if event.name != "queued" and event.data != "[DONE]"]
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"]["completion_tokens"] == 200
    assert all(chunk["usage"]["prompt_tokens"] for chunk in chunks)


@each
@pytest.mark.usefixtures("worker")
async def test_without_the_header_nothing_changes(front: Front, name: str) -> None:
    async with front.post(PATHS[name], asked(name)) as response:
        assert "X-Relais-Events-Url" not in response.headers
        text = await response.text()
    assert "id:" not in text
    assert "queued" not in text
    assert "retry:" not in text


@each
async def test_a_client_that_does_not_come_back_has_left(stack: Stack, name: str) -> None:
    front = await stack.front(WATCH_LEASE_S="0.5")
    await stack.worker(tokens_per_s=20)
    _, url = await begin(front, name, 8)
    channel_id = url.split("/")[3]
    await wait_until(lambda: front.is_terminal(channel_id))
    assert await front.status(channel_id) == "cancelled"


@each
async def test_what_fails_after_acceptance_is_told_in_the_stream(stack: Stack, name: str) -> None:
    front = await stack.front()
    await stack.worker()
    events, _ = await begin(front, name, 10**9, content="x" * 100_000)
    names = {"openai": ["message"], "anthropic": ["error"]}
    told = names.get(name, ["response.created", "response.failed"])
    assert [event.name for event in events] == ["queued", *told]
    body = events[-1].json
    assert "context length" in body.get("response", body)["error"]["message"]
    assert events[-1].id == "2"


@each
async def test_a_drain_ends_a_stream_that_goes_on_elsewhere(stack: Stack, name: str) -> None:
    front, other = await stack.front(WATCH_LEASE_S="60"), await stack.front(WATCH_LEASE_S="60")
    await stack.worker(tokens_per_s=50)
    async with front.post(PATHS[name], asked(name), headers=RESUMABLE) as response:
        events = await read(response, 10)
        url = response.headers["X-Relais-Events-Url"]
        draining = asyncio.create_task(front.parts.drain.run(20))
        events += await read(response)
    await draining
    events += await go_on(other, url, events)
    assert text_of(events) == answer_to("a", 200)


async def test_a_response_s_frames_are_those_of_its_own_route(stack: Stack) -> None:
    front, other = await stack.front(), await stack.front()
    await stack.worker()
    fields: Any = {"background": True, "metadata": {"a": "b"}}
    async with front.post("/v1/responses", asked("responses", **fields)) as response:
        own = [(event.name, event.data) async for event in sse_events(response)]
    channel_id = json.loads(own[0][1])["response"]["id"].removeprefix("resp_")
    path = f"/v1/channels/{channel_id}/events?format=responses"
    async with other.get(path) as response:
        events = [event for event in await read(response) if event.name != "queued"]
    assert [(event.name, event.data) for event in events] == own
    assert [event.json["sequence_number"] for event in events] == list(range(len(events)))
    for place in range(0, len(events), 40):
        headers = {"Last-Event-ID": events[place].id}
        async with front.get(path, headers=headers) as response:
            assert await read(response) == events[place + 1 :]


@pytest.mark.parametrize(
    ("query", "param"),
    [("format=klingon", "format"), ("format=openai&include_usage=perhaps", "include_usage")],
)
async def test_bad_queries_are_refused(front: Front, query: str, param: str) -> None:
    channel_id = await front.submit(chat_request("a"))
    async with front.get(f"/v1/channels/{channel_id}/events?{query}") as response:
        assert response.status == 400
        assert (await response.json())["error"]["param"] == param


@each
async def test_another_word_in_the_header_is_refused_and_queues_nothing(
    front: Front, stack: Stack, name: str
) -> None:
    headers = {"X-Relais-Stream": "forever"}
    async with front.post(PATHS[name], asked(name), headers=headers) as response:
        assert response.status == 400
        assert "X-Relais-Stream" in json.dumps(await response.json())
    assert await stack.idle()


async def test_ids_that_are_none_are_refused(front: Front) -> None:
    channel_id = await front.submit(chat_request("a"))
    path = f"/v1/channels/{channel_id}/events"
    for query, bad in (("", "5.2"), ("?format=openai", "5."), ("?format=openai", "5.1.1")):
        async with front.get(path + query, headers={"Last-Event-ID": bad}) as response:
            assert response.status == 400
            assert (await response.json())["error"]["param"] == "Last-Event-ID"


async def test_vectors_have_native_events_only(stack: Stack) -> None:
    front = await stack.front(MODELS=f"{MODEL},embedder", EMBEDDING_MODELS="embedder")
    channel_id = await front.submit({"model": "embedder", "input": "x"})
    async with front.get(f"/v1/channels/{channel_id}/events?format=openai") as response:
        assert (response.status, (await response.json())["error"]["param"]) == (400, "format")
