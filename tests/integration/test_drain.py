"""An orchestrator that stops refuses new work, lets its clients go on elsewhere, and finishes what cannot move."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from relais_testing.builders import MODEL
from relais_testing.sse_client import ids_of, read_events, sse_events, text_of
from relais_testing.stack import Front, Stack, answer_to, chat_request
from relais_testing.waiting import LIVENESS_S, returns_at_once, wait_until

CHAT = "/v1/chat/completions"
ENDLESS: dict[str, Any] = {"max_tokens": 20_000}


async def read_answer(front: Front, body: dict[str, Any], **headers: str) -> tuple[int, list[str]]:
    async with front.post(CHAT, body, headers=headers) as response:
        if response.content_type == "application/json":
            return response.status, [await response.text()]
        return response.status, [event.data async for event in sse_events(response)]


Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def connect(front: Front) -> Connection:
    return await asyncio.open_connection("127.0.0.1", front.port)


async def head_of(connection: Connection, request: str) -> str:
    """The head of the answer; its body is read, so that the connection is idle."""
    reader, writer = connection
    writer.write(request.encode())
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    length = next(
        int(line.partition(":")[2])
        for line in head.splitlines()
        if line.lower().startswith("content-length:")
    )
    await reader.readexactly(length)
    return head


async def test_draining_orchestrator_is_not_ready_and_refuses_new_requests(
    front: Front, stack: Stack
) -> None:
    await front.parts.drain.run(0.01)
    async with front.get("/readyz") as response:
        assert response.status == 503
        assert (await response.json())["reason"] == "draining"
    async with front.get("/healthz") as response:
        assert response.status == 200
    for route, body in (
        ("/v1/requests", chat_request()),
        (CHAT, chat_request()),
        ("/v1/completions", {"model": MODEL, "prompt": "a"}),
    ):
        async with front.post(route, body) as response:
            assert response.status == 503
            assert int(response.headers["Retry-After"]) >= 1
            assert (await response.json())["error"]["code"] == "draining"
    assert await stack.idle()


async def test_draining_orchestrator_keeps_no_connection_that_carries_nothing(
    stack: Stack,
) -> None:
    """Clients and proxies that kept one would send it their next request, while others would serve it."""
    front = await stack.front()
    worker = await stack.worker(tokens_per_s=50)
    idle = await connect(front)
    await head_of(idle, "GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n")
    answering = asyncio.create_task(read_answer(front, chat_request("a", max_tokens=150)))
    await wait_until(lambda: worker.engine.running)
    draining = asyncio.create_task(front.parts.drain.run(LIVENESS_S))
    assert await idle[0].read() == b""
    head = await head_of(await connect(front), "GET /readyz HTTP/1.1\r\nHost: a\r\n\r\n")
    assert head.startswith("HTTP/1.1 503 ")
    assert "\r\nconnection: close\r\n" in head.lower()
    assert not draining.done()
    status, whole = await answering
    assert status == 200
    assert json.loads(whole[0])["choices"][0]["message"]["content"] == answer_to("a", 150)
    await draining


async def test_native_stream_ends_cleanly_and_goes_on_at_another_orchestrator(
    stack: Stack,
) -> None:
    front, other = await stack.front(KEEPALIVE_S="60"), await stack.front()
    worker = await stack.worker(tokens_per_s=100)
    channel_id = await front.submit(chat_request("a", params={"max_tokens": 200}))
    path = f"/v1/channels/{channel_id}/events"
    reading = asyncio.create_task(read_events(front.session, path))
    await wait_until(lambda: any(held.next_seq > 50 for held in worker.held_jobs.all()))
    await front.parts.drain.run(LIVENESS_S)
    events = await reading  # an end by the book, or this raises
    assert 2 < len(events) < 203
    events += await read_events(other.session, path, after=len(events))
    assert ids_of(events) == list(range(1, 204))
    assert text_of(events) == answer_to("a", 200)


async def test_open_openai_answers_are_finished_first(stack: Stack) -> None:
    front = await stack.front()
    worker = await stack.worker(tokens_per_s=50)
    asking = [
        asyncio.create_task(read_answer(front, chat_request("a", stream=stream, max_tokens=50)))
        for stream in (True, False)
    ]
    await wait_until(lambda: len(worker.engine.running) == 2)
    await front.parts.drain.run(LIVENESS_S)
    (_, data), (status, whole) = [await one for one in asking]
    assert data[-1] == "[DONE]"
    assert status == 200
    assert json.loads(whole[0])["choices"][0]["message"]["content"] == answer_to("a", 50)


async def test_openai_answers_that_take_too_long_end_with_an_error_and_their_work_stops(
    stack: Stack,
) -> None:
    front = await stack.front(WATCH_LEASE_S="60")
    worker = await stack.worker(tokens_per_s=50)
    asking = [
        asyncio.create_task(read_answer(front, chat_request(stream=stream, **ENDLESS)))
        for stream in (True, False)
    ]
    await wait_until(lambda: all(held.next_seq > 5 for held in worker.held_jobs.all()))
    await wait_until(lambda: len(worker.engine.running) == 2)
    await front.parts.drain.run(0.1)
    (_, data), (status, whole) = [await one for one in asking]
    assert json.loads(data[-1])["error"]["code"] == "draining"
    assert "[DONE]" not in data
    assert status == 503
    assert json.loads(whole[0])["error"]["code"] == "draining"
    await wait_until(lambda: not worker.engine.running)
    assert await stack.idle()


async def test_answer_that_takes_too_long_is_there_for_who_repeats_its_idempotency_key(
    stack: Stack,
) -> None:
    front, other = await stack.front(WATCH_LEASE_S="60"), await stack.front()
    worker = await stack.worker(tokens_per_s=50)
    body = chat_request("a", max_tokens=150)
    asking = asyncio.create_task(read_answer(front, body, **{"Idempotency-Key": "once"}))
    await wait_until(lambda: worker.engine.running)
    await front.parts.drain.run(0.1)
    assert (await asking)[0] == 503
    status, whole = await read_answer(other, body, **{"Idempotency-Key": "once"})
    assert status == 200
    assert json.loads(whole[0])["choices"][0]["message"]["content"] == answer_to("a", 150)


@pytest.mark.usefixtures("worker")
async def test_drain_of_an_idle_orchestrator_is_over_at_once(front: Front) -> None:
    assert await returns_at_once(front.parts.drain.run(LIVENESS_S))


async def test_closed_orchestrator_ends_open_streams(stack: Stack) -> None:
    front, other = await stack.front(), await stack.front()
    await stack.worker(tokens_per_s=50)
    channel_id = await front.submit(chat_request("a", params={"max_tokens": 100}))
    path = f"/v1/channels/{channel_id}/events"
    async with front.session.get(path) as response:
        await anext(sse_events(response))
        await stack.close_front(front)
    assert text_of(await read_events(other.session, path)) == answer_to("a", 100)
