"""`WorkerRegistry` over Redis, and the secret that all orchestrators share."""

from __future__ import annotations

import secrets
import time
from typing import cast

from redis.asyncio import Redis

from relais_common.jobs import WorkerState
from relais_common.redis_store.connection import store_errors
from relais_common.wire import codec, keys


class RedisWorkerRegistry:
    """One key per worker, which expires by itself, and an index of them."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    async def beat(self, state: WorkerState, *, ttl_s: float) -> None:
        with store_errors():
            async with self._redis.pipeline(transaction=False) as pipeline:
                pipeline.set(
                    keys.worker(state.worker_id), codec.encode_worker(state), px=int(ttl_s * 1000)
                )
                # The score only bounds the index; whether a worker lives is its own key's expiry.
                pipeline.zadd(keys.WORKERS, {state.worker_id: time.time()})
                pipeline.zremrangebyscore(keys.WORKERS, "-inf", time.time() - 3600)
                await pipeline.execute()

    async def leave(self, worker_id: str) -> None:
        with store_errors():
            async with self._redis.pipeline(transaction=False) as pipeline:
                pipeline.delete(keys.worker(worker_id))
                pipeline.zrem(keys.WORKERS, worker_id)
                await pipeline.execute()

    async def alive(self) -> list[WorkerState]:
        with store_errors():
            ids: list[bytes] = cast("list[bytes]", await self._redis.zrange(keys.WORKERS, 0, -1))
            async with self._redis.pipeline(transaction=False) as pipeline:
                for worker_id in ids:
                    pipeline.get(keys.worker(worker_id.decode()))
                payloads = await pipeline.execute()
        return [codec.decode_worker(payload) for payload in payloads if payload is not None]


async def shared_secret(redis: Redis) -> bytes:
    """The secret that signs `events_url` tokens: made by whoever asks first."""
    with store_errors():
        await redis.set(keys.SIGNING_SECRET, secrets.token_hex(32), nx=True)
        secret = await redis.get(keys.SIGNING_SECRET)
    return cast("bytes", secret)
