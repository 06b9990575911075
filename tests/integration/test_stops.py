"""Cancelled, out of time, or left by its reader: while it waits, is prefilled, or decodes, a request ends, and its
place is free again."""

from __future__ import annotations

from typing import Any

import pytest

from relais_testing.ports import let_deadline_pass, let_watch_pass
from relais_testing.sse_client import read_events
from relais_testing.stack import Front, Stack, answer_to, chat_request
from relais_testing.waiting import wait_until

CAUSES = {"delete": "cancelled", "deadline": "expired", "disconnect": "cancelled"}
PHASES = ("queue", "prefill", "decode")


async def bring_into(phase: str, stack: Stack, front: Front, fields: dict[str, Any]) -> str:
    """A request in this phase at a worker with one place."""
    # In prefill nothing comes for minutes; in decode a token comes now and then.
    worker = await stack.worker(max_num_seqs=1, tokens_per_s=0.005 if phase == "prefill" else 50)
    if phase == "queue":
        await front.submit(chat_request("before", params={"max_tokens": 20_000}))
        await wait_until(lambda: worker.engine.running)
    channel_id = await front.submit(
        chat_request("stopped", params={"max_tokens": 20_000}, **fields)
    )
    if phase == "queue":
        assert await front.status(channel_id) == "queued"
    else:
        path = f"/v1/channels/{channel_id}/events"
        await read_events(front.session, path, stop_after=2 if phase == "prefill" else 5)
        assert worker.engine.running == {channel_id}
    return channel_id


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("cause", CAUSES)
async def test_a_stopped_request_ends_and_frees_its_place(
    stack: Stack, cause: str, phase: str
) -> None:
    front = await stack.front(WATCH_LEASE_S="300")
    fields: dict[str, Any] = {}
    if cause == "disconnect":
        fields["on_disconnect"] = "cancel"
    channel_id = await bring_into(phase, stack, front, fields)
    if cause == "delete":
        async with front.delete(f"/v1/channels/{channel_id}") as response:
            assert response.status in (200, 202)
    if cause == "deadline":
        await let_deadline_pass(stack.redis_url, channel_id)
    if cause == "disconnect":
        await front.parts.queue.unwatch([channel_id], watcher_id=front.parts.watcher.watcher_id)
        await let_watch_pass(stack.redis_url, channel_id)
    await wait_until(lambda: ended_as(front, channel_id, CAUSES[cause]))
    events = await read_events(front.session, f"/v1/channels/{channel_id}/events")
    assert events[-1].name == CAUSES[cause]
    assert [event.name for event in events].count(CAUSES[cause]) == 1
    (worker,) = stack.workers
    await wait_until(lambda: channel_id not in worker.engine.running)
    if phase == "decode":
        # The place is worth something: the next request runs in it.
        after = await front.submit(chat_request("after", params={"max_tokens": 3}))
        await wait_until(lambda: front.is_terminal(after))
        assert (await front.state(after))["result"]["text"] == answer_to("after", 3)


async def ended_as(front: Front, channel_id: str, status: str) -> bool:
    return await front.status(channel_id) == status
