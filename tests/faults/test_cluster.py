"""The primary that has a model is killed under load; its replica takes over; streams go on, and nothing is lost."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis import Redis

from relais_common.environ import redis_url
from relais_common.wire import keys
from support.builders import MODEL
from support.cluster import Cluster, running_cluster
from support.sse_client import SseEvent, ids_of, read_events, text_of
from support.stack import Front, Stack, answer_to, chat_request
from support.waiting import wait_until

TOKENS = 150


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with running_cluster(tmp_path, appendonly=True, replica_of=keys.model_base(MODEL)) as cluster:
        yield cluster


async def read_whole(front: Front, channel_id: str) -> list[SseEvent]:
    return await read_events(front.session, f"{front.url}/v1/channels/{channel_id}/events")


async def test_streams_go_on_at_the_replica_to_the_letter(cluster: Cluster) -> None:
    stack = await Stack.open(redis_url({"REDIS_URL": cluster.url}))
    try:
        # What was accepted is at the replica too.
        front = await stack.front(ACCEPT_WAIT_REPLICAS="1")
        await stack.worker(tokens_per_s=50, max_num_seqs=4, lease_s=20)
        names = [f"request {index}" for index in range(6)]
        channels = [
            await front.submit(chat_request(name, params={"max_tokens": TOKENS})) for name in names
        ]
        reading = [asyncio.create_task(read_whole(front, channel)) for channel in channels]

        async def in_the_middle() -> bool:
            depth = await stack.store.intake.depth(MODEL)
            return (
                depth.running == 4
                and len(await stack.store.log.read(channels[0], after=0, limit=100)) > 20
            )

        await wait_until(in_the_middle)
        cluster.primary_of(keys.model_base(MODEL)).kill()

        def took_over() -> bool:
            with Redis.from_url(cluster.replicas[0].url) as redis:
                return bool(redis.info("replication")["role"] == "master")

        await wait_until(lambda: asyncio.to_thread(took_over), 30)
        for name, events in zip(names, await asyncio.gather(*reading), strict=True):
            assert text_of(events) == answer_to(name, TOKENS)
            assert ids_of(events) == list(range(1, len(events) + 1))
    finally:
        await stack.close()
