"""Several orchestrators and workers on one Redis are one service; the death of one is not the death of a request."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

import pytest

from relais_testing.builders import MODEL
from relais_testing.sse_client import SseEvent, ids_of, read_events, sse_events, text_of
from relais_testing.stack import Front, Stack, answer_to, chat_request
from relais_testing.waiting import LIVENESS_S, wait_until


async def test_hundred_requests_at_once_over_two_orchestrators_and_two_workers(
    stack: Stack,
) -> None:
    # All of it turns in one loop: on a busy machine nobody may speak for a second.
    patient = {"KEEPALIVE_S": "5", "WATCH_LEASE_S": "20"}
    one, two = await stack.front(**patient), await stack.front(**patient)
    workers = [await stack.worker(max_num_seqs=8, lease_s=10) for _ in range(2)]

    async def native(submits: Front, reads: Front, content: str) -> str:
        channel_id = await submits.submit(chat_request(content))
        events = await read_events(reads.session, f"/v1/channels/{channel_id}/events")
        assert ids_of(events) == list(range(1, len(events) + 1))
        assert events[-1].name == "completed"
        return text_of(events)

    async def openai(front: Front, content: str) -> str:
        async with front.post("/v1/chat/completions", chat_request(content)) as response:
            assert response.status == 200, await response.text()
            text: str = (await response.json())["choices"][0]["message"]["content"]
            return text

    contents = [f"question {number}" for number in range(100)]
    pairs = [(one, two), (two, one)]
    answers = await asyncio.gather(
        *(
            native(*pairs[number // 2 % 2], content)
            if number % 2
            else openai(pairs[number // 2 % 2][0], content)
            for number, content in enumerate(contents)
        )
    )
    assert answers == [answer_to(content) for content in contents]
    assert all(worker.faults.count("start") > 10 for worker in workers)
    assert await stack.idle()


async def test_late_binding_leaves_the_backlog_in_the_queue(stack: Stack) -> None:
    front = await stack.front()
    worker = await stack.worker(max_num_seqs=2, tokens_per_s=10)
    most = 0

    def note_running() -> int:
        nonlocal most
        most = max(most, len(worker.engine.running), len(worker.held_jobs))
        return len(worker.engine.running)

    channels = [await front.submit(chat_request(str(number))) for number in range(6)]
    await wait_until(lambda: note_running() == 2)
    depth = await stack.store.intake.depth(MODEL)
    assert (depth.waiting, depth.running) == (4, 2)
    for channel_id in channels:
        while not await front.is_terminal(channel_id):
            note_running()
    assert most == 2


async def test_request_whose_worker_dies_before_the_first_token_is_done_by_another(
    stack: Stack,
) -> None:
    front = await stack.front()
    doomed = await stack.worker(tokens_per_s=0.001)
    channel_id = await front.submit(chat_request("a"))
    reading = asyncio.create_task(read_events(front.session, f"/v1/channels/{channel_id}/events"))
    await wait_until(lambda: any(held.next_seq > 2 for held in doomed.held_jobs.all()))
    await doomed.die()
    assert not await front.is_terminal(channel_id)
    await stack.worker()
    events = await reading
    # `started` came once, the answer once.
    assert [event.name for event in events[:3]] == ["queued", "started", "token"]
    assert ids_of(events) == list(range(1, 36))
    assert text_of(events) == answer_to("a")
    assert await stack.idle()


async def cut_short(stack: Stack, front: Front, **fields: Any) -> list[SseEvent]:
    """Everything a client reads of a request whose worker dies after its first tokens, and another goes on."""
    doomed = await stack.worker(tokens_per_s=50)
    native = await front.submit(chat_request("a", **fields))
    path = f"/v1/channels/{native}/events"
    begun = await read_events(front.session, path, stop_after=6)
    await doomed.die()
    await stack.worker()
    rest = await read_events(front.session, path, after=6)
    assert ids_of(begun + rest) == list(range(1, len(begun + rest) + 1))
    assert await stack.idle()
    return begun + rest


async def test_request_whose_worker_dies_after_the_first_token_goes_on(stack: Stack) -> None:
    events = await cut_short(stack, await stack.front(), params={"max_tokens": 200})
    assert text_of(events) == answer_to("a", 200)
    assert [event.name for event in events] == ["queued", "started", *["token"] * 200, "completed"]


async def test_openai_stream_whose_worker_dies_goes_on_over_the_same_connection(
    stack: Stack,
) -> None:
    front = await stack.front()
    doomed = await stack.worker(tokens_per_s=50)
    body = chat_request("a", stream=True, max_tokens=200)
    text = ""
    async with front.post("/v1/chat/completions", body) as response:
        async for event in sse_events(response):
            if event.data == "[DONE]":
                break
            text += event.json["choices"][0]["delta"].get("content", "")
            if len(text) > 20 and not doomed.faults.away:
                await doomed.die()
                await stack.worker()
        else:
            pytest.fail("the stream broke off")
    assert text == answer_to("a", 200)


async def test_request_that_cannot_go_on_says_so(stack: Stack) -> None:
    front = await stack.front()
    events = await cut_short(stack, front, params={"max_tokens": 200, "seed": 1})
    assert (events[-1].name, events[-1].json["error"]["code"]) == ("failed", "not_resumable")
    assert "seeded" in events[-1].json["error"]["message"]


async def test_request_that_may_be_restarted_tells_its_client_to_discard(stack: Stack) -> None:
    front = await stack.front()
    events = await cut_short(
        stack, front, params={"max_tokens": 200, "seed": 1}, on_worker_loss="restart"
    )
    names = [event.name for event in events]
    assert (names.count("restarted"), names[-1]) == (1, "completed")
    assert text_of(events[names.index("restarted") :]) == answer_to("a", 200)


async def test_dead_workers_requests_keep_their_place_before_younger_ones(stack: Stack) -> None:
    front = await stack.front()
    doomed = await stack.worker(max_num_seqs=1, tokens_per_s=0.001)
    first = await front.submit(chat_request("first"))
    await wait_until(lambda: doomed.held_jobs.all())
    second = await front.submit(chat_request("second"))
    await doomed.die()
    await wait_until(lambda: waiting(stack, 2))
    await stack.worker(max_num_seqs=1)
    for channel_id in (first, second):
        await wait_until(partial(front.is_terminal, channel_id))
    states = [await front.state(channel_id) for channel_id in (first, second)]
    assert states[0]["finished_at_s"] <= states[1]["started_at_s"]


async def waiting(stack: Stack, count: int) -> bool:
    return (await stack.store.intake.depth(MODEL)).waiting == count


async def test_draining_worker_finishes_what_fits_and_takes_nothing_new(stack: Stack) -> None:
    front = await stack.front()
    worker = await stack.worker(max_num_seqs=4, tokens_per_s=100, drain_s=LIVENESS_S)
    held = [await front.submit(chat_request(str(number))) for number in range(4)]
    await wait_until(lambda: len(worker.engine.running) == 4)
    late = await front.submit(chat_request("late"))
    await worker.drain()
    assert [await front.status(channel_id) for channel_id in held] == ["completed"] * 4
    assert await front.status(late) == "queued"
    assert await stack.store.registry.alive() == []


async def test_draining_worker_hands_back_what_does_not_fit_and_another_does_it(
    stack: Stack,
) -> None:
    front = await stack.front()
    slow = await stack.worker(tokens_per_s=0.001, drain_s=0)
    channels = [await front.submit(chat_request(str(number))) for number in range(3)]
    await wait_until(lambda: len(slow.engine.running) == 3)
    await slow.drain()
    assert await waiting(stack, 3)
    await stack.worker()
    for number, channel_id in enumerate(channels):
        await wait_until(partial(front.is_terminal, channel_id))
        assert (await front.state(channel_id))["result"]["text"] == answer_to(str(number))


async def test_workers_that_live_are_in_the_registry(stack: Stack) -> None:
    one, two = await stack.worker(), await stack.worker()

    async def alive() -> set[str]:
        return {state.worker_id for state in await stack.store.registry.alive()}

    async def both() -> bool:
        return await alive() == {one.worker_id, two.worker_id}

    await wait_until(both)
    await two.kill()

    async def first_only() -> bool:
        return await alive() == {one.worker_id}

    await wait_until(first_only)  # its beats have run out
