"""What a worker measures, around the store in memory with a clock that is turned by hand."""

from __future__ import annotations

import secrets
from typing import cast

import pytest
from prometheus_client import CollectorRegistry

from relais_common.jobs.errors import EngineFailed, ErrorInfo
from relais_common.jobs.events import (
    Cancelled,
    Completed,
    Failed,
    Terminal,
    Timings,
    Token,
    Usage,
)
from relais_common.jobs.job import StopReason
from relais_common.queue.ports import TakeRequest
from relais_common.runtime.lifecycle import background
from relais_common.worker import leases
from relais_common.worker import metrics as worker_metrics
from relais_common.worker.consumer import Consumer, ConsumerSettings, Handler
from relais_common.worker.held import Abandon, HeldJob, HeldJobs
from relais_common.worker.metrics import JobMetrics, WorkerMetrics
from relais_common.worker.publisher import Publisher
from relais_common.worker.starting import note_start
from relais_testing.builders import MODEL, make_job
from relais_testing.clock import Clock
from relais_testing.memory import MemoryStore
from relais_testing.scrape import Scraped, read
from relais_testing.waiting import wait_until


class Worker:
    """The loops of a worker, one step at a time, and their clock."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.clock = Clock()
        monkeypatch.setattr(worker_metrics, "time", self.clock)
        self.registry = CollectorRegistry()
        self.metrics = WorkerMetrics(self.registry, [MODEL])
        self.store = MemoryStore(self.clock)
        self.publisher = Publisher(self.store, sizes=self.metrics.batch)
        self.consumer = Consumer(
            self.store,
            cast("Handler", None),  # jobs are not run here, only ended
            HeldJobs(),
            ConsumerSettings(MODEL, "w", lease_s=5, drain_s=0, max_failures=3),
            self.metrics,
        )

    async def taken(self, worker_id: str = "w", *, waited_s: float = 0.0) -> HeldJob:
        await self.store.enqueue(make_job(), max_waiting=10)
        self.clock.now_s += waited_s
        return await self.take(worker_id)

    async def take(self, worker_id: str = "w") -> HeldJob:
        take = await self.store.take(
            TakeRequest(
                MODEL, 1, worker_id=worker_id, call_id=secrets.token_hex(4), lease_s=5, idle=True
            )
        )
        [taken] = take.jobs
        return HeldJob(taken, JobMetrics(self.metrics, taken))

    async def start(self, held: HeldJob, prompt_tokens: int = 3) -> None:
        await note_start(self.store, held, prompts=[[1] * prompt_tokens], model_revision="r")

    async def append(self, held: HeldJob, count: int = 1) -> None:
        for _ in range(count):
            held.add(Token("a", (1,)))
        async with background(self.publisher.run()):
            self.publisher.send(held)
            await wait_until(lambda: not held.has_unsent or held.is_lost)

    async def renew(self, held: HeldJob) -> None:
        await leases._renew(self.store, [held], lease_s=5)

    async def finish(self, held: HeldJob, terminal: Terminal, last: Token | None = None) -> None:
        if last is not None:
            held.add_last(last)
        await self.consumer._finish(held, terminal)

    @property
    def seen(self) -> Scraped:
        return read(self.registry)


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch) -> Worker:
    return Worker(monkeypatch)


LAST = Token("a", (1,))


def completed(output_tokens: int = 3) -> Completed:
    return Completed(
        "stop", Usage(3, output_tokens, 2), Timings(queue_s=2, prefill_s=1, decode_s=4)
    )


async def test_first_token_counts_from_acceptance_and_gaps_between_additions(
    worker: Worker,
) -> None:
    held = await worker.taken(waited_s=2)
    await worker.start(held)
    worker.clock.now_s += 1
    await worker.append(held, 5)
    worker.clock.now_s += 4
    await worker.finish(held, completed(), LAST)
    seen = worker.seen
    assert seen.of("relais_request_queue_time_seconds_sum", model_name=MODEL) == 2
    assert seen.of("relais_time_to_first_token_seconds_sum") == 3
    assert seen.of("relais_time_to_first_token_seconds_count") == 1
    assert seen.of("relais_inter_token_latency_seconds_sum") == 4
    assert seen.of("relais_inter_token_latency_seconds_count") == 1
    assert seen.of("relais_e2e_request_latency_seconds_sum", status="completed") == 7
    assert seen.of("relais_request_time_per_output_token_seconds_sum") == 2
    assert seen.of("relais_append_events_sum") == 5
    assert seen.of("relais_prompt_tokens_total") == 3
    assert seen.of("relais_prompt_tokens_cached_total") == 2
    assert seen.of("relais_request_success_total", operation="chat", finished_reason="stop") == 1


async def test_an_answer_of_one_token_has_a_first_token_too(worker: Worker) -> None:
    held = await worker.taken(waited_s=2)
    await worker.start(held)
    await worker.finish(held, completed(1), LAST)
    assert worker.seen.of("relais_time_to_first_token_seconds_sum") == 2
    assert worker.seen.of("relais_request_time_per_output_token_seconds_count") == 0


async def test_ends_are_counted_once_by_status_and_declared_error(worker: Worker) -> None:
    for terminal in (
        Failed(EngineFailed("x").info),
        Failed(ErrorInfo("x", code="of a later version")),
        Failed(ErrorInfo("x")),
        Cancelled(StopReason.CLIENT),
    ):
        held = await worker.taken()
        await worker.start(held)
        await worker.finish(held, terminal)
        await worker.finish(held, terminal)
    seen = worker.seen
    assert seen.of("relais_requests_ended_total") == 4
    assert seen.of("relais_requests_ended_total", status="failed", error_type="engine_error") == 1
    assert seen.of("relais_requests_ended_total", status="failed", error_type="other") == 2
    assert seen.of("relais_requests_ended_total", status="cancelled", error_type="") == 1
    assert seen.of("relais_request_success_total") == 0


async def test_a_job_that_goes_on_elsewhere_is_lost_here_and_continued_there(
    worker: Worker,
) -> None:
    held = await worker.taken()
    await worker.start(held)
    await worker.append(held)
    worker.clock.now_s += 10
    await worker.store.reap(MODEL, max_failures=3, limit=10)
    again = await worker.take("other")
    await worker.start(again)
    worker.clock.now_s += 3
    await worker.append(again)
    await worker.finish(again, completed())
    seen = worker.seen
    assert seen.of("relais_takes_total", kind="first") == 1
    assert seen.of("relais_takes_total", kind="continued") == 1
    assert seen.of("relais_request_queue_time_seconds_count") == 1
    assert seen.of("relais_time_to_first_token_seconds_count") == 1
    assert seen.of("relais_request_time_per_output_token_seconds_count") == 0
    assert seen.of("relais_e2e_request_latency_seconds_sum") == 13


async def test_a_lease_that_is_gone_counts_once(worker: Worker) -> None:
    held = await worker.taken()
    await worker.start(held)
    worker.clock.now_s += 10
    await worker.store.reap(MODEL, max_failures=3, limit=10)
    await worker.append(held)
    assert worker.seen.of("relais_leases_lost_total") == 1
    await worker.renew(held)
    await worker.finish(held, completed())
    assert worker.seen.of("relais_leases_lost_total") == 1


async def test_what_is_handed_back_is_no_end(worker: Worker) -> None:
    held = await worker.taken()
    await worker.consumer._release([held])
    assert worker.seen.of("relais_requests_handed_back_total") == 1
    assert worker.seen.of("relais_requests_ended_total") == 0
    await worker.take()
    assert worker.seen.of("relais_takes_total", kind="first") == 2


async def test_a_place_that_is_handed_on_is_neither_lost_nor_ended(worker: Worker) -> None:
    held = await worker.taken()
    held.halt(Abandon.PREEMPTED)
    held.halt(Abandon.LOST)
    assert worker.seen.of("relais_requests_preempted_total") == 1
    assert worker.seen.of("relais_leases_lost_total") == 0
    assert worker.seen.of("relais_requests_ended_total") == 0
