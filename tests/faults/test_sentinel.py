"""The primary is killed under load; Sentinels make its replica the primary; streams go on, and nothing is lost."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from redis import Redis

from relais_common.environ import redis_url
from relais_common.wire import keys
from support.builders import MODEL
from support.sentinels import Sentinels, running_sentinels
from support.sse_client import SseEvent, ids_of, read_events, text_of
from support.stack import Front, Stack, answer_to, chat_request
from support.valkey import ValkeyServer
from support.waiting import wait_until

TOKENS = 150


@pytest.fixture
def pair(make_redis_server: Callable[..., ValkeyServer]) -> tuple[ValkeyServer, ValkeyServer]:
    """A primary, and a replica that has all of it."""
    primary = make_redis_server(appendonly=True)
    replica = make_redis_server(appendonly=True)
    with Redis.from_url(replica.url) as redis:
        redis.replicaof(primary.host, primary.port)
        end_s = time.monotonic() + 30
        while redis.info("replication")["master_link_status"] != "up":
            assert time.monotonic() < end_s
            time.sleep(0.05)
    return primary, replica


@pytest.fixture
def sentinels(pair: tuple[ValkeyServer, ValkeyServer], tmp_path: Path) -> Iterator[Sentinels]:
    with running_sentinels(pair[0], tmp_path) as sentinels:
        yield sentinels


async def read_whole(front: Front, channel_id: str) -> list[SseEvent]:
    return await read_events(front.session, f"{front.url}/v1/channels/{channel_id}/events")


async def test_streams_go_on_at_the_replica_to_the_letter(
    pair: tuple[ValkeyServer, ValkeyServer], sentinels: Sentinels
) -> None:
    primary, replica = pair

    async def ready() -> bool:
        return await asyncio.to_thread(sentinels.know_each_other_and_the_replica)

    await wait_until(ready, 30)
    stack = await Stack.open(redis_url({"REDIS_URL": sentinels.url}))
    try:
        # What was accepted is at the replica too.
        front = await stack.front(ACCEPT_WAIT_REPLICAS="1")
        await stack.worker(tokens_per_s=50, max_num_seqs=4, lease_s=20)
        names = [f"request {index}" for index in range(6)]
        channels = [
            await front.submit(chat_request(name, params={"max_tokens": TOKENS})) for name in names
        ]
        reading = [asyncio.create_task(read_whole(front, channel)) for channel in channels]

        async def runs() -> bool:
            return (await stack.store.intake.depth(MODEL)).running == 4

        await wait_until(runs)

        async def in_the_middle() -> bool:
            length: int = await stack.store.redis.llen(keys.log(channels[0]))
            return length > 20

        await wait_until(in_the_middle)
        primary.kill()

        async def failed_over() -> bool:
            return await asyncio.to_thread(sentinels.master_port) == replica.port

        await wait_until(failed_over, 30)
        for name, events in zip(names, await asyncio.gather(*reading), strict=True):
            assert text_of(events) == answer_to(name, TOKENS)
            assert ids_of(events) == list(range(1, len(events) + 1))
    finally:
        await stack.close()
