"""What a worker measures, around the store in memory with a clock that is turned by hand."""

from __future__ import annotations

import secrets

import pytest
from prometheus_client import CollectorRegistry

from relais_common.jobs.errors import EngineFailed, ErrorInfo
from relais_common.jobs.events import Cancelled, Completed, Failed, Terminal, Timings, Usage
from relais_common.jobs.job import Append, StopReason, TakenJob
from relais_common.queue.ports import JobSource
from relais_common.worker import metrics as worker_metrics
from relais_common.worker.metrics import WorkerMetrics
from relais_testing.builders import MODEL, make_job, token_line
from relais_testing.clock import Clock
from relais_testing.memory import MemoryStore
from relais_testing.scrape import Scraped, read


class Worker:
    """A measured source, and its clock."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.clock = Clock()
        monkeypatch.setattr(worker_metrics, "time", self.clock)
        self.registry = CollectorRegistry()
        self.store = MemoryStore(self.clock)
        self.source: JobSource = WorkerMetrics(self.registry, [MODEL]).around(self.store, MODEL)

    async def taken(self, worker_id: str = "w", *, waited_s: float = 0.0) -> TakenJob:
        await self.store.enqueue(make_job(), max_waiting=10)
        self.clock.now_s += waited_s
        return await self.take(worker_id)

    async def take(self, worker_id: str = "w") -> TakenJob:
        take = await self.source.take(
            MODEL,
            1,
            worker_id=worker_id,
            call_id=secrets.token_hex(4),
            lease_s=5,
            idle=True,
        )
        [taken] = take.jobs
        return taken

    async def start(self, taken: TakenJob, prompt_tokens: int = 3) -> int:
        """The number of the next event."""
        verdict = await self.source.start(
            taken.lease, prompt_token_ids=[1] * prompt_tokens, model_revision="r"
        )
        return verdict.tail + 1

    async def append(self, taken: TakenJob, first_seq: int, count: int = 1) -> int:
        [verdict] = await self.source.append(
            [Append(taken.lease, first_seq, (token_line(),) * count)]
        )
        return verdict.tail + 1

    async def finish(
        self, taken: TakenJob, first_seq: int, terminal: Terminal, lines: tuple[bytes, ...] = ()
    ) -> None:
        await self.source.finish(
            taken.lease, first_seq=first_seq, lines=lines, terminal=terminal, text=""
        )

    @property
    def seen(self) -> Scraped:
        return read(self.registry)


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch) -> Worker:
    return Worker(monkeypatch)


def completed(output_tokens: int = 3) -> Completed:
    return Completed(
        "stop", Usage(3, output_tokens, 2), Timings(queue_s=2, prefill_s=1, decode_s=4)
    )


async def test_first_token_counts_from_acceptance_and_gaps_between_additions(
    worker: Worker,
) -> None:
    taken = await worker.taken(waited_s=2)
    seq = await worker.start(taken)
    worker.clock.now_s += 1
    seq = await worker.append(taken, seq, 5)
    worker.clock.now_s += 4
    await worker.finish(taken, seq, completed(), (token_line(),))
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
    taken = await worker.taken(waited_s=2)
    await worker.finish(taken, await worker.start(taken), completed(1), (token_line(),))
    assert worker.seen.of("relais_time_to_first_token_seconds_sum") == 2
    assert worker.seen.of("relais_request_time_per_output_token_seconds_count") == 0


async def test_ends_are_counted_once_by_status_and_declared_error(worker: Worker) -> None:
    for terminal in (
        Failed(EngineFailed("x").info),
        Failed(ErrorInfo("x", code="of a later version")),
        Failed(ErrorInfo("x")),
        Cancelled(StopReason.CLIENT),
    ):
        taken = await worker.taken()
        seq = await worker.start(taken)
        await worker.finish(taken, seq, terminal)
        await worker.finish(taken, seq, terminal)
    seen = worker.seen
    assert seen.of("relais_requests_ended_total") == 4
    assert seen.of("relais_requests_ended_total", status="failed", error_type="engine_error") == 1
    assert seen.of("relais_requests_ended_total", status="failed", error_type="other") == 2
    assert seen.of("relais_requests_ended_total", status="cancelled", error_type="") == 1
    assert seen.of("relais_request_success_total") == 0


async def test_a_job_that_goes_on_elsewhere_is_lost_here_and_continued_there(
    worker: Worker,
) -> None:
    taken = await worker.taken()
    seq = await worker.append(taken, await worker.start(taken))
    worker.clock.now_s += 10
    await worker.store.reap(MODEL, max_failures=3, limit=10)
    again = await worker.take("other")
    await worker.start(again)
    worker.clock.now_s += 3
    seq = await worker.append(again, again.tail + 1)
    await worker.finish(again, seq, completed())
    seen = worker.seen
    assert seen.of("relais_takes_total", kind="first") == 1
    assert seen.of("relais_takes_total", kind="continued") == 1
    assert seen.of("relais_request_queue_time_seconds_count") == 1
    assert seen.of("relais_time_to_first_token_seconds_count") == 1
    assert seen.of("relais_request_time_per_output_token_seconds_count") == 0
    assert seen.of("relais_e2e_request_latency_seconds_sum") == 13


async def test_a_lease_that_is_gone_counts_once(worker: Worker) -> None:
    taken = await worker.taken()
    seq = await worker.start(taken)
    worker.clock.now_s += 10
    await worker.store.reap(MODEL, max_failures=3, limit=10)
    await worker.append(taken, seq)
    await worker.source.renew([taken.lease], lease_s=5)
    assert worker.seen.of("relais_leases_lost_total") == 1


async def test_what_is_handed_back_is_no_end(worker: Worker) -> None:
    taken = await worker.taken()
    await worker.source.release([taken.lease])
    assert worker.seen.of("relais_requests_handed_back_total") == 1
    assert worker.seen.of("relais_requests_ended_total") == 0
    await worker.take()
    assert worker.seen.of("relais_takes_total", kind="first") == 2


async def test_what_is_remembered_is_bounded(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_metrics, "MOST_RUNS", 1)
    forgotten, kept = await worker.taken(), await worker.taken()
    for taken in (forgotten, kept):
        await worker.finish(taken, await worker.start(taken), completed())
    assert worker.seen.of("relais_requests_ended_total") == 1
