"""`WorkerRegistry` over Redis, and the secret that all orchestrators share."""

from __future__ import annotations

import asyncio
import secrets
import time
from typing import cast

from relais_common.jobs.job import WorkerState
from relais_common.jobs.limits import USAGE_DAYS
from relais_common.queue import codec, keys
from relais_common.queue.client.calls import Commands
from relais_common.queue.client.connection import store_errors
from relais_common.queue.client.scripting import Scripts

SHARDS_KEPT_S = (USAGE_DAYS + 1) * 24 * 3600
"""Accounts of usage are what a queue keeps longest."""


class RedisWorkerRegistry:
    """One expiring key per worker, an index of the workers, and over how many queues each model is spread."""

    def __init__(self, scripts: Scripts) -> None:
        self._step, self._send = scripts.step, scripts.calls.send

    async def beat(self, state: WorkerState, *, ttl_s: float) -> None:
        send, name, now_s = self._send, keys.worker(state.worker_id), time.time()
        with self._step("beat"):
            await asyncio.gather(
                send("SET", name, codec.encode_worker(state), "PX", int(ttl_s * 1000)),
                # The score only bounds the index; the expiry of its own key decides whether a worker is alive.
                send("ZADD", keys.WORKERS, now_s, state.worker_id),
                send("ZREMRANGEBYSCORE", keys.WORKERS, "-inf", now_s - 3600),
            )

    async def leave(self, worker_id: str) -> None:
        with self._step("leave"):
            await asyncio.gather(
                self._send("DEL", keys.worker(worker_id)),
                self._send("ZREM", keys.WORKERS, worker_id),
            )

    async def alive(self) -> list[WorkerState]:
        with self._step("alive"):
            ids: list[bytes] = await self._send("ZRANGE", keys.WORKERS, 0, -1)
            payloads = await asyncio.gather(
                *(self._send("GET", keys.worker(worker_id.decode())) for worker_id in ids)
            )
        return [codec.decode_worker(payload) for payload in payloads if payload is not None]

    async def note_shards(self, model: str, shards: int) -> None:
        send, name = self._send, keys.shards(model)
        with self._step("note_shards"):
            await asyncio.gather(
                send("ZADD", name, time.time(), shards), send("EXPIRE", name, SHARDS_KEPT_S)
            )

    async def shards(self, model: str) -> frozenset[int]:
        since_s = time.time() - SHARDS_KEPT_S
        with self._step("shards"):
            found = await self._send("ZRANGEBYSCORE", keys.shards(model), since_s, "+inf")
        return frozenset(map(int, found))


async def shared_secret(calls: Commands) -> bytes:
    """Return the secret that signs `events_url` tokens; the first caller creates it."""
    with store_errors():
        await calls.send("SET", keys.SIGNING_SECRET, secrets.token_hex(32), "NX")
        secret = await calls.send("GET", keys.SIGNING_SECRET)
    return cast("bytes", secret)
