"""Redis under clients that never stop asking, with long prompts and long answers, beside the bound that it is given."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
from redis.asyncio import Redis

from relais_common.queue.redis_store import RedisSettings, open_store
from relais_common.runtime.lifecycle import cancel_and_wait
from relais_llm_worker.engines.engine_deterministic import answer_text
from relais_testing.native_client import events_url
from relais_testing.process_stack import DETERMINISTIC, MODEL, make_starter
from relais_testing.sse_client import read_events, text_of
from relais_testing.valkey import ValkeyServer
from relais_testing.waiting import wait_until

SAMPLE_S = 0.1
CLIENTS = 4
END_S = 300.0


@dataclass(frozen=True, slots=True)
class Pressure:
    """What is asked for, and of how much memory.

    Attributes:
        keep_s: how long logs and results stay after the end.
    """

    bound: int
    prompt_tokens: int
    answer_tokens: int
    seconds: float
    keep_s: float


@dataclass(slots=True)
class Filling:
    """What came of it.

    Attributes:
        samples: seconds, bytes used by Redis, bytes counted.
        peak: the server's own `used_memory_peak`.
        ends: of what was accepted, by status.
        pending: channels whose end has not been seen.
    """

    samples: list[tuple[float, int, int]] = field(default_factory=list)
    peak: int = 0
    accepted: int = 0
    refused: int = 0
    longest_retry_s: int = 0
    ends: Counter[str] = field(default_factory=Counter)
    pending: list[str] = field(default_factory=list)

    @property
    def most_counted(self) -> int:
        return max(counted for _, _, counted in self.samples)


async def measure(pressure: Pressure) -> Filling:
    """Fill it for a while, and until it is full, then wait for the end of all that was accepted.

    Raises:
        AssertionError: a stream has a hole, or it was not filled within `END_S`.
    """
    found = Filling()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        (folder / "redis").mkdir()
        (folder / "logs").mkdir()
        redis = stack.enter_context(ValkeyServer(folder / "redis"))
        start = make_starter(stack, redis, folder / "logs")
        limits = {
            "MAX_STORED_BYTES": str(pressure.bound),
            "MAX_BODY_BYTES": str(pressure.bound // 4),
            "MAX_INFLIGHT_PER_KEY": "100000",
            "LOG_TTL_S": f"{pressure.keep_s:g}",
            "RESULT_TTL_S": f"{pressure.keep_s:g}",
            "LEASE_S": "6",
            "LOG_LEVEL": "error",
        }
        front = start("orchestrator", **limits)
        start(
            "llm_worker",
            **{**DETERMINISTIC, "VLLM_MAX_MODEL_LEN": "10000000", "LEASE_S": "6"},
            MAX_OUTPUT_TOKENS=str(pressure.answer_tokens),
            VLLM_MAX_NUM_SEQS="8",
        )
        sampling = asyncio.create_task(_sample(redis.url, found))
        async with aiohttp.ClientSession() as session:
            # One stream that is read while all is full.
            first = await _ask(session, front.url, pressure, found)
            assert first is not None, "the first request finds room"
            reading = asyncio.create_task(read_events(session, events_url(front.url, first)))
            end_s = time.monotonic() + pressure.seconds
            await asyncio.gather(
                *(_client(session, front.url, pressure, found, end_s) for _ in range(CLIENTS))
            )
            prompt = [ord("x")] * pressure.prompt_tokens
            assert text_of(await reading) == answer_text(prompt, pressure.answer_tokens)
            await wait_until(lambda: not found.pending, END_S, every_s=SAMPLE_S)
        await cancel_and_wait(sampling)
        async with Redis.from_url(redis.url) as client:
            found.peak = (await client.info("memory"))["used_memory_peak"]
    return found


async def _client(
    session: aiohttp.ClientSession, url: str, pressure: Pressure, found: Filling, end_s: float
) -> None:
    """Asks again at once, whatever `Retry-After` told it."""
    while time.monotonic() < end_s or not found.refused:
        assert time.monotonic() < end_s + END_S, "it was not filled"
        if await _ask(session, url, pressure, found) is None:
            await asyncio.sleep(0.05)


async def _ask(
    session: aiohttp.ClientSession, url: str, pressure: Pressure, found: Filling
) -> str | None:
    body = {
        "model": MODEL,
        "prompt": [ord("x")] * pressure.prompt_tokens,
        "params": {"max_tokens": pressure.answer_tokens},
    }
    async with session.post(f"{url}/v1/requests", json=body) as response:
        answer = await response.json()
        if response.status == 202:
            found.accepted += 1
            channel_id: str = answer["channel_id"]
            found.pending.append(channel_id)
            return channel_id
        assert (response.status, answer["error"]["code"]) == (429, "key_storage_full"), answer
        found.refused += 1
        found.longest_retry_s = max(found.longest_retry_s, int(response.headers["Retry-After"]))
        return None


async def _sample(url: str, found: Filling) -> None:
    began_s = time.monotonic()
    async with open_store(RedisSettings(url)) as store:
        redis: Any = store.redis
        while True:
            view = await store.operations.queue(MODEL, top_keys=0)
            used = (await redis.info("memory"))["used_memory"]
            found.samples.append((time.monotonic() - began_s, used, view.stored_bytes))
            # The oldest end first, and a result stays for a while.
            while found.pending:
                state = await store.intake.state(found.pending[0])
                assert state is not None, "forgotten before it was seen to end"
                if not state.status.is_terminal:
                    break
                found.ends[state.status] += 1
                del found.pending[0]
            await asyncio.sleep(SAMPLE_S)
