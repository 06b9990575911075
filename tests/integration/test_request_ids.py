"""Every answer has a name and says how long it took; whoever waited in the queue is told how long."""

from __future__ import annotations

import asyncio

import pytest

from relais_testing.builders import MODEL
from relais_testing.stack import Front, Stack, chat_request
from relais_testing.waiting import wait_until

CHAT = "/v1/chat/completions"


async def test_a_request_is_called_what_its_client_calls_it(front: Front) -> None:
    for path in ("/v1/models", "/healthz", "/nowhere"):
        async with front.get(path, headers={"X-Request-Id": "mine-1:2.3"}) as response:
            assert response.headers["X-Request-Id"] == "mine-1:2.3"
            assert int(response.headers["OpenAI-Processing-Ms"]) >= 0
            # Not what it is made of, and in which version.
            assert response.headers["Server"] == "relais"


@pytest.mark.parametrize("given", ["", "a b", "x" * 129, "é", '{"a":1}', "a\tb"])
async def test_what_is_no_name_is_replaced(front: Front, given: str) -> None:
    async with front.get("/v1/models", headers={"X-Request-Id": given}) as response:
        first = response.headers["X-Request-Id"]
    async with front.get("/v1/models") as response:
        second = response.headers["X-Request-Id"]
    assert first.startswith("req-")
    assert second.startswith("req-")
    assert first != second


@pytest.mark.usefixtures("worker")
async def test_what_has_a_channel_is_called_by_it_whether_it_ends_well_or_not(front: Front) -> None:
    mine = {"X-Request-Id": "mine"}
    for content, status in (("a", 200), ("[engine-fault]", 500)):
        async with front.post(CHAT, chat_request(content), headers=mine) as response:
            assert response.status == status
            channel_id = response.headers["X-Request-Id"]
        async with front.get(f"/v1/channels/{channel_id}", headers=mine) as response:
            assert response.status == 200
            assert response.headers["X-Request-Id"] == channel_id


async def waits(stack: Stack) -> bool:
    return (await stack.store.intake.depth(MODEL)).waiting > 0


@pytest.mark.parametrize("stream", [False, True])
async def test_time_in_the_queue_is_told_to_the_client(stack: Stack, stream: bool) -> None:
    front = await stack.front(KEEPALIVE_S="30")
    asking = asyncio.create_task(front.session.post(CHAT, json=chat_request("a", stream=stream)))
    await wait_until(lambda: waits(stack))
    await asyncio.sleep(0.3)  # the time that is to be told
    await stack.worker()
    async with await asking as response:
        assert response.status == 200
        assert int(response.headers["X-Relais-Queue-Ms"]) >= 250
        assert int(response.headers["OpenAI-Processing-Ms"]) >= 250


async def test_a_stream_that_began_before_its_turn_has_no_time_to_tell_yet(
    front: Front, stack: Stack
) -> None:
    async with front.post(CHAT, chat_request("a", stream=True)) as response:
        assert "X-Relais-Queue-Ms" not in response.headers
        await stack.worker()
        await response.read()
