"""A Redis with little memory, long prompts and long answers: with the bound all goes on, without it nothing does."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import aiohttp
import pytest
from redis.asyncio import Redis

from relais_llm_worker.engine_deterministic import answer_text
from support.native_client import events_url, state_of
from support.process_stack import DETERMINISTIC, MODEL, Starter
from support.sse_client import ids_of, read_events, text_of
from support.valkey import ValkeyServer
from support.waiting import wait_until

MAXMEMORY = 24 << 20
BOUND = 10 << 20
PROMPT_BYTES = 200_000
TOKENS = 300
SETTINGS = {
    "MAX_BODY_BYTES": str(1 << 20),
    "LOG_TTL_S": "300",
    "RESULT_TTL_S": "300",
    # Two run when the queue fills up, and are slow enough to be running still.
    "VLLM_MAX_NUM_SEQS": "2",
    "VLLM_MAX_MODEL_LEN": "1000000",
    "DETERMINISTIC_TOKENS_PER_S": "100",
}


@pytest.fixture
def redis(make_redis_server: Callable[..., ValkeyServer]) -> ValkeyServer:
    return make_redis_server(options={"maxmemory": str(MAXMEMORY)})


def prompt(number: int, length: int = PROMPT_BYTES) -> str:
    return f"{number:06}" + "x" * length


async def fill(
    session: aiohttp.ClientSession, url: str, *, length: int = PROMPT_BYTES, tokens: int = TOKENS
) -> tuple[dict[int, str], str, int]:
    """Ask until it is refused; the accepted channels by number, the code of the refusal, and `Retry-After`."""
    accepted: dict[int, str] = {}
    for number in range(10_000):
        body = {"model": MODEL, "prompt": prompt(number, length), "params": {"max_tokens": tokens}}
        async with session.post(f"{url}/v1/requests", json=body) as response:
            answer = await response.json()
            if response.status == 202:
                accepted[number] = answer["channel_id"]
                continue
            assert response.status == 503, answer
            return accepted, answer["error"]["code"], int(response.headers["Retry-After"])
    raise AssertionError("never refused")


async def test_all_that_was_accepted_is_answered_and_memory_stays_under_its_bound(
    start: Starter, session: aiohttp.ClientSession, redis: ValkeyServer
) -> None:
    front = start("orchestrator", **SETTINGS, MAX_STORED_BYTES=str(BOUND))
    quick = {"VLLM_MAX_NUM_SEQS": "4", "DETERMINISTIC_TOKENS_PER_S": "400"}
    start("llm_worker", **{**DETERMINISTIC, **SETTINGS, **quick})
    accepted, code, retry_after_s = await fill(session, front.url)
    assert code == "storage_full"
    assert retry_after_s >= 1
    assert len(accepted) > 10
    for number, channel_id in accepted.items():
        events = await read_events(session, events_url(front.url, channel_id))
        assert ids_of(events) == list(range(1, len(events) + 1))
        assert text_of(events) == answer_text(list(prompt(number).encode()), TOKENS)
    async with Redis.from_url(redis.url) as client:
        assert (await client.info("memory"))["used_memory_peak"] < MAXMEMORY
    # Requests are gone, and there is room again.
    again, _, _ = await fill(session, front.url)
    assert again


async def test_without_the_bound_a_full_redis_ends_nothing(
    start: Starter, session: aiohttp.ClientSession, redis: ValkeyServer
) -> None:
    front = start("orchestrator", **SETTINGS, MAX_STORED_BYTES=str(1 << 40))
    start("llm_worker", **{**DETERMINISTIC, **SETTINGS})
    accepted, _, _ = await fill(session, front.url, tokens=10_000)
    # What was on its way to be refused is no longer in memory, and small requests are let in still.
    _, code, _ = await fill(session, front.url, length=1)
    assert code == "store_unavailable"
    first = [accepted[number] for number in (0, 1)]

    async def tails() -> list[int]:
        return [(await state_of(session, front.url, one))["last_event_id"] for one in first]

    async def stuck() -> bool:
        before = await tails()
        await asyncio.sleep(2)
        return before == await tails()

    await wait_until(stuck, 60)
    # One that was taken may have come back to the queue; none has ended.
    for channel_id in accepted.values():
        state = await state_of(session, front.url, channel_id)
        assert state["status"] in ("queued", "running")
    # Not even what would free memory is done.
    waiting = accepted[max(accepted)]
    async with session.delete(f"{front.url}/v1/channels/{waiting}") as response:
        assert response.status == 503
