"""arq. It polls, for jobs and for results."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from arq import create_pool
from arq.connections import RedisSettings
from arq.worker import Worker, func

from benchmarks.queueing.shapes import POLL_S, Submit


async def noop(_: Any) -> int:
    return 1


async def work(url: str, places: int) -> None:
    worker = Worker(
        functions=[func(noop, name="noop")],
        redis_settings=RedisSettings.from_dsn(url),
        max_jobs=places,
        poll_delay=POLL_S,
        keep_result=600,
    )
    await worker.async_run()


@asynccontextmanager
async def connect(url: str) -> AsyncIterator[Submit]:
    redis = await create_pool(RedisSettings.from_dsn(url))

    async def submit() -> None:
        job = await redis.enqueue_job("noop")
        assert job is not None
        assert await job.result(poll_delay=POLL_S) == 1

    yield submit
    await redis.aclose()
