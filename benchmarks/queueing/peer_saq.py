"""SAQ. `Job.refresh` waits for the result over pub/sub, where `Queue.apply` would poll for it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

from saq import Queue, Worker

from benchmarks.queueing.shapes import Submit

LISTEN_S = 0.2


async def noop(_: Any) -> int:
    return 1


async def work(url: str, places: int) -> None:
    worker: Any = Worker(Queue.from_url(url), functions=[noop], concurrency=places)
    await worker.start()


@asynccontextmanager
async def connect(url: str) -> AsyncIterator[Submit]:
    queue = Queue.from_url(url)
    await queue.connect()

    async def submit() -> None:
        job = await queue.enqueue("noop")
        assert job is not None
        while not job.completed:
            # It misses an end that comes between its look at the job and its listening, and would wait in vain.
            with suppress(asyncio.TimeoutError):
                await job.refresh(until_complete=LISTEN_S)
        assert job.result == 1

    yield submit
    await queue.disconnect()
