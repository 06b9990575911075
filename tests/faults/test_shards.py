"""A model over two shards while workers and orchestrators are killed: every stream is whole, wherever it lies."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest
from redis import Redis

from relais_common.jobs.channels import channel_shard, queue_of
from relais_common.queue import keys
from relais_testing.builders import MODEL as OTHER_MODEL
from relais_testing.cluster import Cluster, running_cluster
from relais_testing.native_client import events_url, submit
from relais_testing.process_stack import DETERMINISTIC, MODEL, Starter
from relais_testing.scrape import scrape
from relais_testing.sse_client import SseEvent, read_events, text_of
from relais_testing.stack import Front, Stack, answer_to, chat_request
from relais_testing.streams import TOKENS, check_whole
from relais_testing.waiting import wait_until

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


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """The nodes that are left go on without one."""
    with running_cluster(tmp_path) as cluster:
        for one in cluster.primaries:
            with Redis.from_url(one.url) as redis:
                redis.config_set("cluster-require-full-coverage", "no")
        yield cluster


async def test_streams_of_one_shard_end_while_the_node_of_the_other_stands_still(
    cluster: Cluster,
) -> None:
    first, second = (
        cluster.primary_of(keys.model_base(queue_of(OTHER_MODEL, shard))) for shard in (0, 1)
    )
    assert first is not second
    stack = await Stack.open(cluster.url)
    try:
        # No lease runs out while the node stands still.
        front = await stack.front(
            QUEUE_SHARDS=json.dumps({OTHER_MODEL: 2}), LEASE_S="300", WATCH_LEASE_S="300"
        )
        await stack.worker(tokens_per_s=50, max_num_seqs=16, lease_s=300)
        prompts = [f"stream {number}" for number in range(8)]
        body = {prompt: chat_request(prompt, params={"max_tokens": 200}) for prompt in prompts}
        channels = {prompt: await front.submit(body[prompt]) for prompt in prompts}
        stuck = {prompt for prompt in prompts if channel_shard(channels[prompt])}
        assert 0 < len(stuck) < len(prompts)
        readers = {
            prompt: asyncio.create_task(_read(front, channel_id))
            for prompt, channel_id in channels.items()
        }

        async def all_are_under_way() -> bool:
            # A stream cannot begin where its node does not answer.
            seen = await scrape(front.session, front.url)
            lines = [await stack.store.log.read(one, after=0, limit=9) for one in channels.values()]
            opened = seen.of("relais_sse_streams_total")
            return opened == len(channels) and all(len(one) == 9 for one in lines)

        await wait_until(all_are_under_way)
        os.kill(second.pid, signal.SIGSTOP)
        try:
            for prompt in channels.keys() - stuck:
                assert text_of(await readers[prompt]) == answer_to(prompt, 200)
            assert not any(readers[prompt].done() for prompt in stuck)
        finally:
            os.kill(second.pid, signal.SIGCONT)
        for prompt in stuck:
            assert text_of(await readers[prompt]) == answer_to(prompt, 200)
    finally:
        await stack.close()


async def _read(front: Front, channel_id: str) -> list[SseEvent]:
    return await read_events(front.session, f"/v1/channels/{channel_id}/events")
