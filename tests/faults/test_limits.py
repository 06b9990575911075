"""Limits and accounts of a key while an orchestrator and a worker are killed: compared with what its channels say."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
from redis.asyncio import Redis

from relais_common.jobs.events import Completed, Started, Token
from relais_common.queue import codec, keys
from relais_common.queue.redis_store import RedisSettings, open_store
from relais_testing.keys import KeyFile, bearer
from relais_testing.process_stack import DETERMINISTIC, MODEL, Starter
from relais_testing.processes import ServiceProcess
from relais_testing.valkey import ValkeyServer
from relais_testing.waiting import wait_until

REQUESTS = 40
# A reservation that was left behind would be seen for a minute: together they are most of what a minute has.
LIMITS = {"requests_per_minute": REQUESTS, "tokens_per_minute": 1_000_000}
RESERVED = "20000"
SLOW = {**DETERMINISTIC, "DETERMINISTIC_TOKENS_PER_S": "8", "VLLM_MAX_NUM_SEQS": "8"}
ENDED = {b"completed", b"failed", b"cancelled", b"expired"}


class Client:
    """Asks one thing after another until its key's minute is used up; goes on at the other server when one dies."""

    def __init__(
        self, session: aiohttp.ClientSession, fronts: list[ServiceProcess], number: int
    ) -> None:
        self._session = session
        self._fronts = fronts[number % 2 :] + fronts[: number % 2]
        self._number = number

    async def run(self) -> set[str]:
        """The channels it was given."""
        channels: set[str] = set()
        while (channel_id := await self._ask(f"{self._number}-{len(channels)}")) is not None:
            channels.add(channel_id)
        return channels

    async def _ask(self, name: str) -> str | None:
        body = {"model": MODEL, "prompt": name, "on_disconnect": "continue"}
        headers = {"Idempotency-Key": name, **bearer("one")}
        while True:
            try:
                async with self._session.post(
                    f"{self._fronts[0].url}/v1/requests", json=body, headers=headers
                ) as response:
                    answer: dict[str, Any] = await response.json()
            except aiohttp.ClientError:
                self._fronts.reverse()
                continue
            if response.status == 429:
                assert answer["error"]["code"] == "rate_limit_exceeded"
                return None
            assert response.status == 202, answer
            return str(answer["channel_id"])


async def told_by(queue: Any, channels: set[str]) -> Counter[str]:
    """What channels took, from their logs."""
    told = Counter[str]()
    for channel_id in channels:
        events = [
            codec.decode_event(one) for one in await queue.lrange(keys.log(channel_id), 0, -1)
        ]
        status: bytes = await queue.hget(keys.job(channel_id), "status")
        told[status.decode()] += 1
        if isinstance(events[-1], Completed):
            told["input_tokens"] += events[-1].usage.input_tokens or 0
            told["output_tokens"] += events[-1].usage.output_tokens
            continue
        for event in events:
            if isinstance(event, Started):
                told["input_tokens"] += event.input_tokens or 0
            elif isinstance(event, Token):
                told["output_tokens"] += len(event.token_ids)
    return told


async def test_after_kills_on_both_sides_as_many_passed_as_may_and_what_they_took_is_on_the_account(
    start: Starter, redis: ValkeyServer, session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    key_file = KeyFile(tmp_path / "keys.json", one=LIMITS)
    settings = {**key_file.settings, "RESERVED_OUTPUT_TOKENS": RESERVED}
    fronts = [start("orchestrator", **settings) for _ in range(2)]
    doomed = start("llm_worker", **SLOW)
    start("llm_worker", **SLOW)
    queue: Any
    async with Redis.from_url(redis.url) as queue:

        async def accepted() -> set[str]:
            found = await queue.keys(f"{keys.model_base(MODEL)}:job:*")
            return {str(name, "ascii").rpartition(":")[2] for name in found}

        async def many_are_accepted() -> bool:
            return len(await accepted()) >= 15

        began_s = time.monotonic()
        asking = [asyncio.create_task(Client(session, fronts, n).run()) for n in range(6)]
        await wait_until(many_are_accepted)
        fronts[0].kill()

        async def tokens_come() -> bool:
            lengths = [await queue.llen(keys.log(one)) for one in await accepted()]
            return len([one for one in lengths if one > 4]) > 8  # so of both workers' jobs

        await wait_until(tokens_come)
        doomed.kill()
        given = await asyncio.gather(*asking)
        trickled_back = int((time.monotonic() - began_s) * REQUESTS / 60) + 1
        channels = await accepted()
        assert set().union(*given) == channels
        assert REQUESTS <= len(channels) <= REQUESTS + trickled_back
        for channel_id in sorted(channels)[::4]:
            path = f"{fronts[1].url}/v1/channels/{channel_id}"
            async with session.delete(path, headers=bearer("one")) as response:
                assert response.status in (200, 202)
        await asyncio.to_thread(start, "llm_worker", **DETERMINISTIC)

        async def all_ended() -> bool:
            return ENDED.issuperset([await queue.hget(keys.job(one), "status") for one in channels])

        await wait_until(all_ended)
        told = await told_by(queue, channels)
        # Nothing counts as open, and of the tokens no more is used than was taken: nobody holds a reservation.
        assert await queue.hgetall(keys.open_jobs(MODEL)) == {}
        kept = await queue.get(keys.used(MODEL, "tokens", "one"))
        used = 0.0 if kept is None else float(kept.split()[0])
        assert used <= told["input_tokens"] + told["output_tokens"]
    assert told["completed"] > 0
    assert told["cancelled"] > 0
    assert sum(told[status.decode()] for status in ENDED) == len(channels)
    async with open_store(RedisSettings(redis.url)) as store:
        today = datetime.now(UTC).date()
        days = await store.accounts.usage(
            MODEL, since=today - timedelta(days=1), until=today, key_id="one"
        )
    account = Counter[str]()
    for day in days:
        account.update({name: getattr(day, name) for name in told})
    assert account == told
