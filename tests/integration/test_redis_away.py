"""Redis goes and comes back: requests are refused politely meanwhile, and what was accepted goes on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from functools import partial

import pytest

from relais_testing.builders import MODEL
from relais_testing.sse_client import SseEvent, ids_of, read_events, sse_events, text_of
from relais_testing.stack import Front, Stack, answer_to, chat_request
from relais_testing.valkey import ValkeyServer
from relais_testing.waiting import wait_until


@pytest.fixture
def server(make_redis_server: Callable[..., ValkeyServer]) -> ValkeyServer:
    """A server of this test's own, with a file that outlives it."""
    return make_redis_server(appendonly=True)


@pytest.fixture
async def stack(server: ValkeyServer) -> AsyncIterator[Stack]:
    stack = await Stack.open(server.url)
    yield stack
    await stack.close()


async def readiness(front: Front) -> int:
    async with front.get("/readyz") as response:
        status: int = response.status
        return status


async def is_ready(front: Front) -> bool:
    return await readiness(front) == 200


async def test_requests_are_refused_while_redis_is_away_and_accepted_after(
    stack: Stack, server: ValkeyServer
) -> None:
    front = await stack.front()
    await stack.worker()
    assert await is_ready(front)
    channel_id = await front.submit(chat_request("before"))
    await wait_until(lambda: front.is_terminal(channel_id))
    await asyncio.to_thread(server.stop)
    for route, body in (
        ("/v1/requests", chat_request()),
        ("/v1/chat/completions", chat_request(stream=True)),
        ("/v1/completions", {"model": MODEL, "prompt": "a"}),
    ):
        async with front.post(route, body) as response:
            assert response.status == 503
            assert int(response.headers["Retry-After"]) >= 1
            assert (await response.json())["error"]["code"] == "store_unavailable"
    for path in (f"/v1/channels/{channel_id}", f"/v1/channels/{channel_id}/events"):
        async with front.get(path) as response:
            assert response.status == 503
    assert await readiness(front) == 503
    async with front.get("/healthz") as response:
        assert response.status == 200
    async with front.get("/v1/models") as response:
        assert response.status == 200
        [model] = (await response.json())["data"]
        assert (model["id"], model["relais"]) == (MODEL, {"operation": "chat"})
    await asyncio.to_thread(server.start)
    await wait_until(lambda: is_ready(front))
    assert (await front.state(channel_id))["result"]["text"] == answer_to("before")
    after = await front.submit(chat_request("after"))
    await wait_until(lambda: front.is_terminal(after))
    assert (await front.state(after))["result"]["text"] == answer_to("after")


@pytest.mark.parametrize("route", ["native", "openai"])
async def test_open_stream_goes_on_when_redis_is_back(
    stack: Stack, server: ValkeyServer, route: str
) -> None:
    # As in earnest, an outage that no reaper has noticed is shorter than a reader's lease.
    front = await stack.front(WATCH_LEASE_S="20")
    worker = await stack.worker(tokens_per_s=60)
    if route == "native":
        channel_id = await front.submit(chat_request("a", params={"max_tokens": 150}))
        path = f"/v1/channels/{channel_id}/events"
        reading = asyncio.create_task(read_events(front.session, path))
    else:
        reading = asyncio.create_task(ask(front))
    await wait_until(lambda: any(held.next_seq > 20 for held in worker.held_jobs.all()))
    await asyncio.to_thread(server.stop)
    (held,) = worker.held_jobs.all()
    # The engine goes on meanwhile, to its answer's end if that is near, and the process lives.
    goal = min(held.next_seq + 20, 150)
    await wait_until(lambda: held.next_seq >= goal)
    assert await readiness(front) == 503
    await asyncio.to_thread(server.start)
    events = await reading
    if route == "native":
        assert ids_of(events) == list(range(1, 154))
        assert text_of(events) == answer_to("a", 150)
    else:
        assert events[-1].data == "[DONE]"
        pieces = [event.json["choices"][0]["delta"].get("content", "") for event in events[:-1]]
        assert "".join(pieces) == answer_to("a", 150)


async def ask(front: Front) -> list[SseEvent]:
    body = chat_request("a", stream=True, max_tokens=150)
    async with front.post("/v1/chat/completions", body) as response:
        return [event async for event in sse_events(response)]


async def test_jobs_that_wait_or_start_when_redis_goes_are_done_when_it_is_back(
    stack: Stack, server: ValkeyServer
) -> None:
    front = await stack.front()
    worker = await stack.worker(max_num_seqs=2, tokens_per_s=100)
    contents = [f"question {i}" for i in range(12)]
    channels = [await front.submit(chat_request(content)) for content in contents]
    await wait_until(lambda: worker.engine.running)
    for _ in range(2):
        await asyncio.to_thread(server.restart, kill=False)
        await wait_until(lambda: is_ready(front))
    for channel_id, content in zip(channels, contents, strict=True):
        await wait_until(partial(front.is_terminal, channel_id))
        state = await front.state(channel_id)
        assert (state["status"], state["error"]) == ("completed", None)
        assert state["result"]["text"] == answer_to(content)


async def test_process_starts_without_redis_and_serves_once_it_is_there(
    stack: Stack, server: ValkeyServer
) -> None:
    await asyncio.to_thread(server.stop)
    starting = asyncio.create_task(stack.front())
    await asyncio.to_thread(server.start)
    front = await starting
    assert await is_ready(front)
