"""What a waiting request is told of its place, and who is told to come back later."""

from __future__ import annotations

import asyncio
from functools import partial

from relais_testing.sse_client import SseEvent, sse_events
from relais_testing.stack import Stack, chat_request
from relais_testing.waiting import wait_until

LONG = {"params": {"max_tokens": 20_000}}


async def test_a_waiting_stream_hears_of_its_place_without_ids_until_its_turn_comes(
    stack: Stack,
) -> None:
    front = await stack.front(KEEPALIVE_S="0.1")
    ahead = [await front.submit(chat_request(f"ahead {number}", **LONG)) for number in range(3)]
    mine = await front.submit(chat_request("mine", params={"max_tokens": 3}))
    heard: list[SseEvent] = []

    async def listen() -> None:
        async with front.get(f"/v1/channels/{mine}/events") as response:
            async for event in sse_events(response):
                heard.append(event)  # noqa: PERF401 - the test looks while it grows

    def places() -> list[int]:
        return [event.json["queue_position"] for event in heard if event.name == "queued"]

    def is_at(position: int) -> bool:
        return places()[-1] == position

    listening = asyncio.create_task(listen())
    await wait_until(lambda: places()[1:] and places()[-1] == 4)
    worker = await stack.worker(max_num_seqs=1, tokens_per_s=100)
    for position in (3, 2, 1):
        await wait_until(partial(is_at, position))
        await wait_until(lambda: worker.engine.running)
        (running,) = worker.engine.running
        async with front.delete(f"/v1/channels/{running}") as response:
            assert response.status in (200, 202)
        ahead.remove(running)
    await listening
    assert [event.name for event in heard if event.id] == [
        "queued", "started", "token", "token", "token", "completed",
    ]  # fmt: skip
    assert [event.id for event in heard if event.id] == [str(number) for number in range(1, 7)]
    assert all(event.name == "queued" for event in heard if not event.id)


async def test_a_key_with_too_many_unfinished_requests_is_told_when_to_come_back(
    stack: Stack,
) -> None:
    front = await stack.front(MAX_INFLIGHT_PER_KEY="3")
    worker = await stack.worker(max_num_seqs=1, tokens_per_s=100)
    greedy = {"Authorization": "Bearer greedy"}
    channels = [
        await front.submit(chat_request(str(number), **LONG), **greedy) for number in range(3)
    ]
    await wait_until(lambda: worker.engine.running)
    for path in ("/v1/requests", "/v1/chat/completions"):
        async with front.post(path, chat_request(), headers=greedy) as response:
            assert response.status == 429
            assert int(response.headers["Retry-After"]) >= 1
            error = (await response.json())["error"]
            assert (error["type"], error["code"]) == ("rate_limit_error", "too_many_in_flight")
    await front.submit(chat_request(), Authorization="Bearer modest")
    async with front.delete(f"/v1/channels/{channels[2]}", headers=greedy) as response:
        assert response.status == 200
    await front.submit(chat_request(), **greedy)
