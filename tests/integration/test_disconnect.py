"""Clients that leave, orchestrators that vanish: the work stops where the request says so."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from relais_common.queue import keys
from relais_testing.builders import MODEL
from relais_testing.owned import end_task
from relais_testing.ports import let_watch_pass
from relais_testing.sse_client import sse_events
from relais_testing.stack import Front, Stack, answer_to, chat_request
from relais_testing.waiting import wait_until
from relais_testing.worker import Worker

CHAT = "/v1/chat/completions"
ENDLESS: dict[str, Any] = {"max_tokens": 20_000}


@pytest.fixture
async def slow_worker(stack: Stack) -> Worker:
    """Its requests run for minutes, unless they are stopped."""
    return await stack.worker(tokens_per_s=50)


async def ask(front: Front, body: dict[str, Any], **headers: str) -> bytes:
    """Read an answer to its end; cancelling this is a client that leaves."""
    async with front.post(CHAT, body, headers=headers) as response:
        answer: bytes = await response.read()
        return answer


async def is_free(stack: Stack, worker: Worker) -> bool:
    return not worker.engine.running and len(worker.held_jobs) == 0 and await stack.idle()


async def is_read_by(stack: Stack, channel_id: str, fronts: int) -> bool:
    ((_, readers),) = await stack.store.redis.pubsub_numsub(keys.live(channel_id))
    return readers == fronts


async def waits(stack: Stack, count: int) -> bool:
    return (await stack.store.intake.depth(MODEL)).waiting == count


async def test_leaving_an_openai_stream_stops_the_work_at_once(
    stack: Stack, slow_worker: Worker
) -> None:
    front = await stack.front(WATCH_LEASE_S="60")  # so it is not the lease that does it
    async with front.post(CHAT, chat_request(stream=True, **ENDLESS)) as response:
        channel_id = response.headers["X-Request-Id"]
        await anext(sse_events(response))
        assert channel_id in slow_worker.engine.running
        response.close()
    await wait_until(lambda: is_free(stack, slow_worker))
    assert await front.status(channel_id) == "cancelled"


async def test_leaving_while_it_still_waits_takes_it_out_of_the_queue(stack: Stack) -> None:
    front = await stack.front(WATCH_LEASE_S="60", KEEPALIVE_S="60")
    asking = asyncio.create_task(ask(front, chat_request(stream=True)))
    await wait_until(lambda: waits(stack, 1))
    asking.cancel()
    await wait_until(stack.idle)


async def test_leaving_a_request_that_does_not_stream_stops_the_work_too(
    stack: Stack, slow_worker: Worker
) -> None:
    front = await stack.front(WATCH_LEASE_S="60", KEEPALIVE_S="60")
    asking = asyncio.create_task(ask(front, chat_request(**ENDLESS)))
    await wait_until(lambda: streams_tokens(slow_worker, 1))
    asking.cancel()
    await wait_until(lambda: is_free(stack, slow_worker))


@pytest.mark.parametrize("stream", [False, True])
async def test_work_goes_on_after_a_disconnect_where_the_request_says_so(
    stack: Stack, stream: bool
) -> None:
    front = await stack.front()
    worker = await stack.worker(tokens_per_s=100)
    body = chat_request("a", stream=stream, max_tokens=150, on_disconnect="continue")
    asking = asyncio.create_task(ask(front, body))
    await wait_until(lambda: streams_tokens(worker, 1))
    (channel_id,) = worker.engine.running
    asking.cancel()
    await wait_until(lambda: front.is_terminal(channel_id))
    state = await front.state(channel_id)
    assert (state["status"], state["result"]["text"]) == ("completed", answer_to("a", 150))


@pytest.mark.parametrize("stream", [False, True])
async def test_leaving_while_the_request_is_put_into_the_queue_takes_it_out_again(
    stack: Stack, monkeypatch: pytest.MonkeyPatch, stream: bool
) -> None:
    front = await stack.front(WATCH_LEASE_S="60")
    enqueue = front.parts.queue.enqueue

    async def unanswered(*args: Any, **kwargs: Any) -> None:
        await enqueue(*args, **kwargs)
        await asyncio.Event().wait()

    monkeypatch.setattr(front.parts.queue, "enqueue", unanswered)
    asking = asyncio.create_task(ask(front, chat_request(stream=stream)))
    await wait_until(lambda: waits(stack, 1))
    asking.cancel()
    await wait_until(stack.idle)


@pytest.mark.parametrize("stream", [False, True])
async def test_leaving_an_answer_that_another_waits_for_too_stops_nothing(
    stack: Stack, stream: bool
) -> None:
    front, other = await stack.front(), await stack.front()
    worker = await stack.worker(tokens_per_s=100)
    body = chat_request("a", stream=stream, max_tokens=300)
    key = {"Idempotency-Key": "once"}
    leaving = asyncio.create_task(ask(front, body, **key))
    await wait_until(lambda: streams_tokens(worker, 1))
    (channel_id,) = worker.engine.running
    staying = asyncio.create_task(ask(other, body, **key))
    await wait_until(lambda: is_read_by(stack, channel_id, 2))
    leaving.cancel()
    answer = (await staying).decode()
    assert ("[DONE]" in answer) == stream
    assert '"error"' not in answer
    assert (await front.state(channel_id))["result"]["text"] == answer_to("a", 300)


async def test_request_with_an_idempotency_key_stops_once_nobody_has_come_back_for_it(
    stack: Stack, slow_worker: Worker
) -> None:
    front = await stack.front()
    asking = [
        asyncio.create_task(
            ask(front, chat_request(stream=True, **ENDLESS), **{"Idempotency-Key": "once"})
        )
        for _ in range(2)
    ]
    await wait_until(lambda: streams_tokens(slow_worker, 1))
    (channel_id,) = slow_worker.engine.running
    for one in asking:
        one.cancel()
    await wait_until(lambda: is_free(stack, slow_worker))
    assert await front.status(channel_id) == "cancelled"


async def test_native_request_goes_on_without_readers_by_default(
    front: Front, stack: Stack
) -> None:
    worker = await stack.worker(tokens_per_s=100)
    channel_id = await front.submit(chat_request("a", params={"max_tokens": 150}))
    async with front.get(f"/v1/channels/{channel_id}/events") as response:
        await anext(sse_events(response))
        response.close()
    await wait_until(lambda: front.is_terminal(channel_id))
    assert await front.status(channel_id) == "completed"
    assert not worker.engine.running


async def test_native_request_that_nobody_watches_is_cancelled_after_the_lease(
    front: Front, stack: Stack, slow_worker: Worker
) -> None:
    body = chat_request(on_disconnect="cancel", params=ENDLESS)
    channel_id = await front.submit(body)
    await wait_until(lambda: front.is_terminal(channel_id))
    await wait_until(lambda: is_free(stack, slow_worker))
    state = await front.state(channel_id)
    assert state["status"] == "cancelled"
    # Not before its lease of one second.
    assert state["finished_at_s"] - state["accepted_at_s"] >= 0.99


async def test_native_request_lives_as_long_as_somebody_watches(
    front: Front, stack: Stack, slow_worker: Worker
) -> None:
    channel_id = await front.submit(chat_request(on_disconnect="cancel", params=ENDLESS))
    async with front.get(f"/v1/channels/{channel_id}/events") as response:
        seen = 0
        async for _ in sse_events(response):
            seen += 1
            if seen == 120:  # well past two leases
                break
        assert await front.status(channel_id) == "running"
        response.close()
    await wait_until(lambda: is_free(stack, slow_worker))
    assert await front.status(channel_id) == "cancelled"


async def test_waiting_request_that_nobody_watches_is_cancelled_without_any_worker(
    front: Front, stack: Stack
) -> None:
    channel_id = await front.submit(chat_request(on_disconnect="cancel"))
    await wait_until(lambda: front.is_terminal(channel_id))
    assert await front.status(channel_id) == "cancelled"
    assert await stack.idle()


async def test_orchestrator_that_vanishes_leaves_no_work_for_nobody(
    stack: Stack, slow_worker: Worker
) -> None:
    front, other = await stack.front(WATCH_LEASE_S="300"), await stack.front()
    asking = asyncio.create_task(ask(front, chat_request(stream=True, **ENDLESS)))
    await wait_until(lambda: streams_tokens(slow_worker, 1))
    (channel_id,) = slow_worker.engine.running
    front.lose_its_voice()
    await stack.close_front(front)
    await end_task(asking)
    assert await other.status(channel_id) == "running"
    await let_watch_pass(stack.redis_url, channel_id)
    await wait_until(lambda: is_free(stack, slow_worker))
    assert await other.status(channel_id) == "cancelled"


async def test_hundred_clients_that_leave_free_a_hundred_places(stack: Stack) -> None:
    front = await stack.front(WATCH_LEASE_S="60", KEEPALIVE_S="60", LEASE_S="10")
    worker = await stack.worker(tokens_per_s=5, max_num_seqs=128, lease_s=10)
    body = chat_request(stream=True, **ENDLESS)
    async with asyncio.TaskGroup() as group:
        asking = [group.create_task(ask(front, body)) for _ in range(100)]
        await wait_until(lambda: streams_tokens(worker, 100))
        for one in asking:
            one.cancel()
    await wait_until(lambda: is_free(stack, worker))


def streams_tokens(worker: Worker, count: int) -> bool:
    """So many requests run, and each has had time to reach its client."""
    held = worker.held_jobs.all()
    return len(held) == count and all(one.next_seq > 5 for one in held)
