"""A Redis with little memory, long prompts and long answers: with the bound all goes on, without it nothing does."""

from __future__ import annotations

from collections.abc import Callable

import aiohttp
import pytest
from redis.asyncio import Redis

from relais_common.jobs.errors import StoreUnavailable
from relais_common.jobs.job import StopReason
from relais_common.queue.redis_store import RedisSettings, open_store
from relais_llm_worker.engines.engine_deterministic import answer_text
from relais_testing.builders import make_job
from relais_testing.native_client import events_url
from relais_testing.ports import redis_ports
from relais_testing.process_stack import DETERMINISTIC, MODEL, Starter
from relais_testing.sse_client import ids_of, read_events, text_of
from relais_testing.steps import append, enqueue, finish, running
from relais_testing.valkey import ValkeyServer

MAXMEMORY = 24 << 20
BOUND = 10 << 20
PROMPT_BYTES = 200_000
TOKENS = 300
SETTINGS = {
    "MAX_BODY_BYTES": str(1 << 20),
    "MAX_INFLIGHT_PER_KEY": "100000",
    "LOG_TTL_S": "300",
    "RESULT_TTL_S": "300",
    "VLLM_MAX_NUM_SEQS": "4",
    "VLLM_MAX_MODEL_LEN": "1000000",
    "DETERMINISTIC_TOKENS_PER_S": "400",
}


@pytest.fixture
def redis(make_redis_server: Callable[..., ValkeyServer]) -> ValkeyServer:
    return make_redis_server(options={"maxmemory": str(MAXMEMORY)})


def prompt(number: int) -> str:
    return f"{number:06}" + "x" * PROMPT_BYTES


async def fill(session: aiohttp.ClientSession, url: str) -> tuple[dict[int, str], str, int]:
    """Ask until it is refused; the accepted channels by number, the code of the refusal, and `Retry-After`."""
    accepted: dict[int, str] = {}
    for number in range(1000):
        body = {"model": MODEL, "prompt": prompt(number), "params": {"max_tokens": TOKENS}}
        async with session.post(f"{url}/v1/requests", json=body) as response:
            answer = await response.json()
            if response.status == 202:
                accepted[number] = answer["channel_id"]
                continue
            assert response.status == 429, answer
            return accepted, answer["error"]["code"], int(response.headers["Retry-After"])
    raise AssertionError("never refused")


async def test_all_that_was_accepted_is_answered_and_memory_stays_under_its_bound(
    start: Starter, session: aiohttp.ClientSession, redis: ValkeyServer
) -> None:
    front = start("orchestrator", **SETTINGS, MAX_STORED_BYTES=str(BOUND))
    start("llm_worker", **{**DETERMINISTIC, **SETTINGS})
    accepted, code, retry_after_s = await fill(session, front.url)
    assert code == "key_storage_full"
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


async def test_without_the_bound_a_full_redis_ends_nothing(redis: ValkeyServer) -> None:
    async with open_store(RedisSettings(redis.url)) as store:
        ports = redis_ports(store)
        taken = await running(ports, make_job())
        waiting = make_job()
        await enqueue(ports, waiting)
        with pytest.raises(StoreUnavailable):
            while True:
                await enqueue(ports, make_job(prompt="x" * PROMPT_BYTES))
        # The last request was too large for what room was left; smaller ones would have taken it by and by.
        used = (await store.redis.info("memory"))["used_memory"]
        await store.redis.config_set("maxmemory", used - PROMPT_BYTES)
        for refused in (
            append(ports, taken.lease, 2),
            finish(ports, taken.lease, 2),
            ports.intake.cancel(waiting.channel_id, StopReason.CLIENT),
        ):
            with pytest.raises(StoreUnavailable):
                await refused
        for channel_id in (taken.job.channel_id, waiting.channel_id):
            state = await ports.intake.state(channel_id)
            assert state is not None
            assert not state.status.is_terminal
