"""Waiting for work: a ring is heard, and none is lost between two waits."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from relais_common.jobs.job import StopReason
from relais_testing.builders import MODEL, make_job
from relais_testing.ports import Ports
from relais_testing.steps import crash, enqueue, ids, running, start, take, take_one
from relais_testing.waiting import LIVENESS_S, returns_at_once


@asynccontextmanager
async def waiting_worker(ports: Ports) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.create_task(
        ports.source.wait_for_work(MODEL, worker_id="any", timeout_s=LIVENESS_S)
    )
    await asyncio.sleep(0)
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait({task})


async def rings(ports: Ports) -> bool:
    """Return whether a worker that waits now is woken."""
    return await returns_at_once(
        ports.source.wait_for_work(MODEL, worker_id="any", timeout_s=LIVENESS_S)
    )


async def is_silent(ports: Ports) -> bool:
    """Return whether a worker that waits now waits until its time is over."""
    began_s = time.monotonic()
    await ports.source.wait_for_work(MODEL, worker_id="any", timeout_s=0.1)
    return time.monotonic() - began_s >= 0.1


async def test_waiting_for_nothing_ends_at_the_timeout(ports: Ports) -> None:
    assert await is_silent(ports)


async def test_waiting_no_time_returns(ports: Ports) -> None:
    assert await returns_at_once(ports.source.wait_for_work(MODEL, worker_id="any", timeout_s=0))


async def test_waiting_worker_wakes_at_an_enqueue(ports: Ports) -> None:
    async with waiting_worker(ports) as task:
        await enqueue(ports, make_job())
        assert await returns_at_once(task)


async def test_waiting_worker_wakes_at_a_requeue(ports: Ports) -> None:
    taken = await running(ports)
    async with waiting_worker(ports) as task:
        await crash(ports, taken.lease)
        assert await returns_at_once(task)


async def test_waiting_worker_wakes_at_a_release(ports: Ports) -> None:
    taken = await running(ports)
    async with waiting_worker(ports) as task:
        await ports.source.release([taken.lease])
        assert await returns_at_once(task)


async def test_ring_before_the_wait_is_not_lost(ports: Ports) -> None:
    assert await take(ports) == []
    await enqueue(ports, make_job())
    assert await rings(ports)


async def test_take_that_leaves_work_behind_rings_for_the_next(ports: Ports) -> None:
    await enqueue(ports, make_job(), make_job())
    assert await rings(ports)
    await ports.source.wait_for_work(MODEL, worker_id="any", timeout_s=0.05)  # both rings are heard
    await take_one(ports, worker_id="w1")
    assert await rings(ports)


async def test_take_that_empties_the_queue_silences_old_rings(ports: Ports) -> None:
    await enqueue(ports, *[make_job() for _ in range(5)])
    await take(ports, 5)
    assert await is_silent(ports)


async def test_queue_of_cancelled_jobs_does_not_ring(ports: Ports) -> None:
    jobs = [make_job() for _ in range(3)]
    await enqueue(ports, *jobs)
    for job in jobs[1:]:
        await ports.intake.cancel(job.channel_id, StopReason.CLIENT)
    await take_one(ports)
    assert await is_silent(ports)


async def test_rings_of_one_model_do_not_wake_another(ports: Ports) -> None:
    await enqueue(ports, make_job(model="other/model"))
    assert await is_silent(ports)


async def test_suspect_left_by_an_idle_worker_rings_for_the_next(ports: Ports) -> None:
    await enqueue(ports, make_job(), make_job())
    taken = await take(ports, 2)
    for one in taken:
        await start(ports, one.lease)
    await crash(ports, *[one.lease for one in taken])
    assert len(await take(ports, 5, idle=True)) == 1
    assert await rings(ports)


async def test_suspect_does_not_keep_ringing_for_a_busy_worker(ports: Ports) -> None:
    taken = await running(ports)
    await start(ports, taken.lease)
    await crash(ports, taken.lease)
    assert await take(ports, 5, idle=False) == []
    assert await is_silent(ports)


async def test_workers_that_take_and_wait_get_all_jobs(ports: Ports) -> None:
    jobs = [make_job(f"key-{number % 3}") for number in range(60)]
    done: list[str] = []
    all_done = asyncio.Event()

    async def work(worker_id: str) -> None:
        while not all_done.is_set():
            done.extend(ids(taken := await take(ports, 2, worker_id=worker_id)))
            if len(done) == len(jobs):
                all_done.set()
            if not taken:
                await ports.source.wait_for_work(MODEL, worker_id="any", timeout_s=0.5)

    async with asyncio.TaskGroup() as group:
        for number in range(4):
            group.create_task(work(f"w{number}"))
        for job in jobs:
            await enqueue(ports, job)
            await asyncio.sleep(0)
    assert sorted(done) == sorted(ids(jobs))
