"""A model over two shards while workers and orchestrators are killed: every stream is whole, wherever it lies."""

from __future__ import annotations

import asyncio
import json

import aiohttp
import pytest

from relais_common.jobs.channels import channel_shard
from relais_testing.native_client import events_url, submit
from relais_testing.process_stack import DETERMINISTIC, MODEL, Starter
from relais_testing.sse_client import SseEvent, read_events
from relais_testing.streams import TOKENS, check_whole

PACED = {**DETERMINISTIC, "DETERMINISTIC_TOKENS_PER_S": "100"}
SPREAD = {"QUEUE_SHARDS": json.dumps({MODEL: 2})}


async def begin_all(session: aiohttp.ClientSession, url: str, prompts: list[str]) -> dict[str, str]:
    """Submit them and wait until each has tokens; return the channel of each."""
    channels = {prompt: await submit(session, url, prompt, TOKENS) for prompt in prompts}
    assert {channel_shard(one) for one in channels.values()} == {0, 1}
    await asyncio.gather(
        *(read_events(session, events_url(url, one), stop_after=20) for one in channels.values())
    )
    return channels


async def test_streams_of_both_shards_go_on_when_worker_after_worker_is_killed(
    start: Starter, session: aiohttp.ClientSession
) -> None:
    front = start("orchestrator", **SPREAD)
    workers = [start("llm_worker", **PACED) for _ in range(2)]
    channels = await begin_all(session, front.url, [f"stream {number}" for number in range(12)])
    readers = {
        prompt: asyncio.create_task(read_events(session, events_url(front.url, one)))
        for prompt, one in channels.items()
    }
    for _ in range(2):
        workers.pop(0).kill()
        workers.append(start("llm_worker", **PACED))
    for prompt, reader in readers.items():
        check_whole(await reader, prompt)


async def test_clients_of_a_killed_orchestrator_go_on_at_one_that_spreads_over_fewer(
    start: Starter, session: aiohttp.ClientSession
) -> None:
    front, other = start("orchestrator", **SPREAD), start("orchestrator")
    start("llm_worker", **PACED)
    channels = await begin_all(session, front.url, [f"stream {number}" for number in range(8)])

    async def seen(channel_id: str) -> list[SseEvent]:
        return await read_events(session, events_url(front.url, channel_id), stop_after=40)

    begun = dict(zip(channels, await asyncio.gather(*map(seen, channels.values())), strict=True))
    front.kill()
    for prompt, channel_id in channels.items():
        url = events_url(other.url, channel_id)
        rest = await read_events(session, url, after=len(begun[prompt]))
        check_whole([*begun[prompt], *rest], prompt)


@pytest.mark.parametrize("shards", [1, 2])
async def test_what_waits_in_a_shard_that_no_orchestrator_fills_any_more_is_served(
    start: Starter, session: aiohttp.ClientSession, shards: int
) -> None:
    front = start("orchestrator", QUEUE_SHARDS=json.dumps({MODEL: 3}))
    channels = [await submit(session, front.url, f"early {number}", 5) for number in range(9)]
    front.kill()
    now = start("orchestrator", QUEUE_SHARDS=json.dumps({MODEL: shards}))
    start("llm_worker", **PACED)
    for number, channel_id in enumerate(channels):
        events = await read_events(session, events_url(now.url, channel_id))
        check_whole(events, f"early {number}", 5)


async def test_a_deadly_request_runs_alone_and_charges_no_stream_of_the_other_shard(
    start: Starter, session: aiohttp.ClientSession
) -> None:
    patient = {"LEASE_S": "300"}
    front = start("orchestrator", **SPREAD, **patient)
    struck = start("llm_worker", **PACED, **patient)
    channels = await begin_all(session, front.url, [f"bystander {number}" for number in range(6)])
    readers = {
        prompt: asyncio.create_task(read_events(session, events_url(front.url, one)))
        for prompt, one in channels.items()
    }
    poison = await submit(session, front.url, "[engine-death]", 10)
    assert struck.wait() == 1
    for _ in range(2):
        assert start("llm_worker", wait=False, **PACED, **patient).wait() == 1
    events = await read_events(session, events_url(front.url, poison))
    assert (events[-1].name, events[-1].json["error"]["code"]) == ("failed", "worker_lost")
    start("llm_worker", **PACED, **patient)
    for prompt, reader in readers.items():
        check_whole(await reader, prompt)
