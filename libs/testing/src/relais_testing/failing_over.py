"""Streams whose Redis is killed and replaced by another."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from relais_common.queue.client.address import redis_url
from relais_testing.builders import MODEL
from relais_testing.scrape import scrape
from relais_testing.sse_client import SseEvent, ids_of, read_events, text_of
from relais_testing.stack import Front, Stack, answer_to, chat_request
from relais_testing.waiting import wait_until

TOKENS = 150


async def _read_whole(front: Front, channel_id: str) -> list[SseEvent]:
    return await read_events(front.session, f"{front.url}/v1/channels/{channel_id}/events")


async def assert_streams_go_on(
    url: str, kill: Callable[[], None], is_over: Callable[[], Awaitable[bool]]
) -> None:
    """Check that streams continue exactly, with what one replica had accepted.

    Args:
        url: as `REDIS_URL` has it.
        kill: called in the middle of the streams.
        is_over: whether the other has taken over.
    """
    stack = await Stack.open(redis_url({"REDIS_URL": url}))
    try:
        # What was accepted is at the replica too.
        front = await stack.front(ACCEPT_WAIT_REPLICAS="1", ACCEPT_WAIT_TIMEOUT_S="60")
        await stack.worker(tokens_per_s=50, max_num_seqs=4, lease_s=20)
        names = [f"request {index}" for index in range(6)]
        channels = [
            await front.submit(chat_request(name, params={"max_tokens": TOKENS})) for name in names
        ]
        reading = [asyncio.create_task(_read_whole(front, channel)) for channel in channels]

        async def runs() -> bool:
            return (await stack.store.intake.depth(MODEL)).running == 4

        async def all_are_read() -> bool:
            seen = await scrape(front.session, front.url)
            return seen.of("relais_sse_streams_total") == len(channels)

        async def in_the_middle() -> bool:
            return len(await stack.store.log.read(channels[0], after=0, limit=100)) > 20

        await wait_until(runs)
        # While there is no Redis, a stream cannot begin.
        await wait_until(all_are_read)
        await wait_until(in_the_middle)
        kill()
        await wait_until(is_over)
        for name, events in zip(names, await asyncio.gather(*reading), strict=True):
            assert text_of(events) == answer_to(name, TOKENS)
            assert ids_of(events) == list(range(1, len(events) + 1))
    finally:
        await stack.close()
