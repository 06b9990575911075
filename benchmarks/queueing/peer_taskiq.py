"""taskiq over Redis streams, which are acknowledged. Its results are polled for."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from taskiq.api import run_receiver_task
from taskiq_redis import RedisAsyncResultBackend, RedisStreamBroker

from benchmarks.queueing.shapes import POLL_S, Submit


async def noop() -> int:
    return 1


def _broker(url: str) -> Any:
    results: Any = RedisAsyncResultBackend(url, result_ex_time=600)
    return RedisStreamBroker(url).with_result_backend(results)


async def work(url: str, places: int) -> None:
    broker = _broker(url)
    broker.register_task(noop, task_name="noop")
    await run_receiver_task(broker, max_async_tasks=places, run_startup=True)


@asynccontextmanager
async def connect(url: str) -> AsyncIterator[Submit]:
    broker = _broker(url)
    task = broker.register_task(noop, task_name="noop")
    await broker.startup()

    async def submit() -> None:
        one = await task.kiq()
        assert (await one.wait_result(check_interval=POLL_S)).return_value == 1

    yield submit
    await broker.shutdown()
