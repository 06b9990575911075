"""Renewing leases while jobs start: answers to two calls may come in either order."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from relais_common.jobs.job import Lease, StopReason, Verdict
from relais_common.queue.ports import TakeRequest
from relais_common.runtime.lifecycle import background
from relais_common.worker.held import HeldJob, HeldJobs
from relais_common.worker.leases import listen_for_stops, renew_for_ever
from relais_common.worker.publisher import Publisher
from relais_testing.builders import MODEL, hold, make_job
from relais_testing.memory import MemoryStore
from relais_testing.waiting import wait_until


class _LateStore(MemoryStore):
    """Carries a renewal out at once, and answers when told."""

    def __init__(self) -> None:
        super().__init__()
        self.renewals = 0
        self.answered = 0
        self.answer = asyncio.Event()

    def listens(self, model: str) -> bool:
        return bool(self._listeners.get(model))

    async def renew(self, leases: Sequence[Lease], *, lease_s: float) -> list[Verdict]:
        verdicts = await super().renew(leases, lease_s=lease_s)
        self.renewals += 1
        await self.answer.wait()
        self.answered += 1
        return verdicts


async def _take(store: MemoryStore) -> HeldJob:
    (held,) = await _take_several(store, 1)
    return held


async def _take_several(store: MemoryStore, count: int) -> list[HeldJob]:
    for _ in range(count):
        await store.enqueue(make_job(), max_waiting=100)
    take = await store.take(
        TakeRequest(MODEL, count, worker_id="w", call_id="1", lease_s=60, idle=True)
    )
    return [hold(one) for one in take.jobs]


async def _start(store: MemoryStore, held: HeldJob) -> None:
    verdict = await store.start(held.lease, prompts=[[1]], model_revision="r")
    held.note_started(verdict.tail)
    held.heed(verdict)


async def test_a_renewal_whose_answer_start_has_overtaken_costs_no_lease() -> None:
    store = _LateStore()
    held_jobs = HeldJobs()
    held = await _take(store)
    held_jobs.add(held)
    async with background(renew_for_ever(store, held_jobs, Publisher(store), lease_s=0.03)):
        await wait_until(lambda: store.renewals == 1)
        await _start(store, held)
        store.answer.set()
        await wait_until(lambda: store.answered >= 2)
    assert not held.is_lost
    assert not held.halted.done()


async def test_jobs_that_are_cancelled_in_numbers_are_stopped_by_few_calls() -> None:
    store = _LateStore()
    held_jobs = HeldJobs()
    batch = await _take_several(store, 20)
    for held in batch:
        held_jobs.add(held)
    async with background(listen_for_stops(store, held_jobs, MODEL, lease_s=60)):
        await wait_until(lambda: store.listens(MODEL))
        await store.cancel(batch[0].lease.channel_id, StopReason.CLIENT)
        await wait_until(lambda: store.renewals == 1)
        for held in batch[1:]:
            await store.cancel(held.lease.channel_id, StopReason.CLIENT)
        store.answer.set()
        await wait_until(lambda: all(held.halted.done() for held in batch))
    assert {held.halted.result() for held in batch} == {StopReason.CLIENT}
    assert store.renewals <= 3


@pytest.mark.parametrize("after_start", [False, True])
async def test_a_log_that_came_back_shorter_than_what_this_holder_found_is_another_ones(
    after_start: bool,
) -> None:
    store = MemoryStore()
    held = await _take(store)
    if after_start:
        await _start(store, held)
    held.heed(Verdict(held=True, tail=held.base - 1, stop=None))
    assert held.is_lost
