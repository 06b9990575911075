"""streaQ, as its guide has it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from streaq import Worker

from benchmarks.queueing.shapes import Submit


async def noop() -> int:
    return 1


async def work(url: str, places: int) -> None:
    worker: Any = Worker(redis_url=url, concurrency=places)
    worker.task(name="noop")(noop)
    await worker.run_async()


@asynccontextmanager
async def connect(url: str) -> AsyncIterator[Submit]:
    worker: Any = Worker(redis_url=url)
    task: Any = worker.task(name="noop")(noop)
    async with worker:

        async def submit() -> None:
            one = await task.enqueue()
            assert (await one.result()).result == 1

        yield submit
