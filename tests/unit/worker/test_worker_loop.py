"""A whole worker over the store in memory: late binding, endings, faults, drain."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Any

import pytest

from relais_common.jobs.events import Completed, Event, Failed, Restarted, Started, Token
from relais_common.jobs.job import (
    ChannelState,
    Job,
    OnWorkerLoss,
    Priority,
    Sampling,
    Status,
    StopReason,
)
from relais_common.queue import codec
from relais_common.queue.ports import TakeRequest
from relais_llm_worker.engines.engine_deterministic import answer_text
from relais_testing.builders import MODEL, make_job
from relais_testing.memory import MemoryStore
from relais_testing.owned import end_task
from relais_testing.plain_logs import use_plain_logs
from relais_testing.ports import memory_ports
from relais_testing.waiting import wait_until
from relais_testing.worker import Worker

MakeWorker = Callable[..., Worker]


@pytest.fixture(autouse=True)
def plain_logs() -> None:
    use_plain_logs()


@pytest.fixture
async def make_worker(memory_store: MemoryStore) -> AsyncIterator[MakeWorker]:
    """Starts workers of this test's store."""
    workers: list[Worker] = []

    def make(**settings: Any) -> Worker:
        worker = Worker(memory_ports(memory_store), **settings)
        workers.append(worker)
        worker.start()
        return worker

    yield make
    for worker in workers:
        await worker.kill()


def prompt_job(prompt: str, max_tokens: int = 5, **fields: Any) -> Job:
    return make_job(prompt=prompt, sampling=Sampling(max_tokens=max_tokens), **fields)


def answer(prompt: str, tokens: int) -> str:
    return answer_text(list(prompt.encode()), tokens)


async def state(store: MemoryStore, job: Job) -> ChannelState:
    found = await store.state(job.channel_id)
    assert found is not None
    return found


async def reached(store: MemoryStore, job: Job, status: Status) -> ChannelState:
    """The job's state, once it has this status."""

    async def there() -> ChannelState | None:
        found = await state(store, job)
        return found if found.status is status else None

    found = await wait_until(there)
    assert found is not None
    return found


async def put(store: MemoryStore, *jobs: Job) -> None:
    for job in jobs:
        await store.enqueue(job, max_waiting=100)


async def test_a_job_is_answered_and_its_text_kept(
    memory_store: MemoryStore, make_worker: MakeWorker
) -> None:
    make_worker()
    job = prompt_job("hello", 7)
    await put(memory_store, job)
    ended = await reached(memory_store, job, Status.COMPLETED)
    assert ended.text == answer("hello", 7)
    assert ended.tail == 1 + 1 + 7 + 1


async def test_no_more_jobs_are_taken_than_the_engine_has_room_for(
    memory_store: MemoryStore, make_worker: MakeWorker
) -> None:
    worker = make_worker(max_num_seqs=2, tokens_per_s=1)
    jobs = [prompt_job(f"long {i}", 1000) for i in range(5)]
    await put(memory_store, *jobs)
    await wait_until(lambda: len(worker.engine.running) == 2)
    depth = await memory_store.depth(MODEL)
    assert (depth.waiting, depth.running) == (3, 2)
    assert [(await state(memory_store, job)).status for job in jobs[2:]] == [Status.QUEUED] * 3


async def test_a_burst_is_shared_by_workers_with_room_for_all_of_it(
    memory_store: MemoryStore, make_worker: MakeWorker
) -> None:
    workers = [make_worker(max_num_seqs=64, tokens_per_s=1) for _ in range(4)]
    await wait_until(lambda: all(worker.faults.count("take") for worker in workers))
    await put(memory_store, *[prompt_job(f"long {i}", 1000) for i in range(32)])
    await wait_until(lambda: sum(len(worker.engine.running) for worker in workers) == 32)
    assert [len(worker.engine.running) for worker in workers] == [8] * 4


async def test_what_a_silent_worker_was_left_is_taken_after_all(
    memory_store: MemoryStore, make_worker: MakeWorker
) -> None:
    """It asked, and has not been heard of since."""
    await memory_store.take(
        TakeRequest(MODEL, 64, worker_id="silent", call_id="1", lease_s=60, idle=True, waited=0)
    )
    worker = make_worker(max_num_seqs=64, tokens_per_s=1)
    await put(memory_store, *[prompt_job(f"long {i}", 1000) for i in range(8)])
    await wait_until(lambda: len(worker.engine.running) == 8)


async def test_a_cancelled_job_frees_its_place_for_the_next(
    memory_store: MemoryStore, make_worker: MakeWorker
) -> None:
    worker = make_worker(max_num_seqs=1, tokens_per_s=1)
    first, second = prompt_job("first", 1000), prompt_job("second", 1000)
    await put(memory_store, first, second)
    await wait_until(lambda: worker.engine.running == {first.channel_id})
    await memory_store.cancel(first.channel_id, StopReason.CLIENT)
    await reached(memory_store, first, Status.CANCELLED)
    await wait_until(lambda: worker.engine.running == {second.channel_id})


async def test_a_job_past_its_deadline_is_stopped(
    memory_store: MemoryStore, make_worker: MakeWorker
) -> None:
    worker = make_worker(tokens_per_s=20)
    job = prompt_job("slow", 1000, deadline_s=3)
    await put(memory_store, job)
    ended = await reached(memory_store, job, Status.EXPIRED)
    assert ended.tail > 2
    await wait_until(lambda: not worker.engine.running)


async def test_the_end_brings_what_was_not_sent_yet(
    memory_store: MemoryStore, make_worker: MakeWorker
) -> None:
    worker = make_worker(stream_interval_s=3600)
    worker.faults.refuse("append", 1_000_000)
    for prompt in ("first", "second"):
        job = prompt_job(prompt, 20)
        await put(memory_store, job)
        ended = await reached(memory_store, job, Status.COMPLETED)
        assert ended.text == answer(prompt, 20)
        log = await read_log(memory_store, job)
        assert "".join(one.text for one in log if isinstance(one, Token)) == ended.text
        assert ended.tail == len(log) == 1 + 1 + 20 + 1


async def test_an_engine_fault_ends_that_job_alone(
    memory_store: MemoryStore, make_worker: MakeWorker
) -> None:
    make_worker()
    faulty, sound = prompt_job("[engine-fault]"), prompt_job("sound")
    await put(memory_store, faulty, sound)
    ended = await reached(memory_store, faulty, Status.FAILED)
    event = codec.decode_event(ended.outcome or b"")
    assert isinstance(event, Failed)
    assert event.error.code == "engine_error"
    await reached(memory_store, sound, Status.COMPLETED)


async def test_an_unforeseen_error_ends_the_job_without_saying_more(
    memory_store: MemoryStore, make_worker: MakeWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = make_worker()

    async def crash(key_id: str, text: str) -> list[int]:
        raise RuntimeError("secret detail")

    monkeypatch.setattr(worker.engine, "encode_text", crash)
    job = prompt_job("anything")
    await put(memory_store, job)
    ended = await reached(memory_store, job, Status.FAILED)
    assert b"secret" not in (ended.outcome or b"")
    monkeypatch.undo()
    after = prompt_job("after")
    await put(memory_store, after)
    await reached(memory_store, after, Status.COMPLETED)


async def test_a_store_that_goes_away_mid_answer_loses_and_doubles_nothing(
    memory_store: MemoryStore, make_worker: MakeWorker
) -> None:
    worker = make_worker(tokens_per_s=200, lease_s=30.0)
    job = prompt_job("outage", 100)
    await put(memory_store, job)
    await wait_until(lambda: _tail_over(memory_store, job, 10))
    worker.faults.away = True
    appends = worker.faults.count("append")
    await wait_until(lambda: worker.faults.count("append") > appends)
    worker.faults.away = False
    ended = await reached(memory_store, job, Status.COMPLETED)
    assert ended.text == answer("outage", 100)
    assert ended.tail == 1 + 1 + 100 + 1


async def read_log(store: MemoryStore, job: Job) -> list[Event]:
    lines = await store.read(job.channel_id, after=0, limit=100_000)
    return [codec.decode_event(line) for line in lines]


async def failure(store: MemoryStore, job: Job) -> Failed:
    """How the job failed."""
    event = codec.decode_event((await reached(store, job, Status.FAILED)).outcome or b"")
    assert isinstance(event, Failed)
    return event


async def charge(store: MemoryStore) -> None:
    """The next job is taken by a worker whose engine it crashes."""
    take = await store.take(
        TakeRequest(MODEL, 1, worker_id="late", call_id="1", lease_s=-1, idle=False)
    )
    [taken] = take.jobs
    await store.start(taken.lease, prompts=[[1]], model_revision="r")
    await store.reap(MODEL, max_failures=3, limit=10)


async def _tail_over(store: MemoryStore, job: Job, tail: int) -> bool:
    return (await state(store, job)).tail > tail


@pytest.mark.parametrize("step", ["take", "start", "append", "finish"])
async def test_a_lost_answer_to_any_step_changes_nothing(
    memory_store: MemoryStore, make_worker: MakeWorker, step: str
) -> None:
    worker = make_worker(lease_s=0.5)
    job = prompt_job("lost answer", 20)
    worker.faults.lose_answer(step)
    await put(memory_store, job)
    ended = await reached(memory_store, job, Status.COMPLETED)
    assert ended.text == answer("lost answer", 20)
    lines = await memory_store.read(job.channel_id, after=0, limit=1000)
    names = [line.partition(b" ")[0] for line in lines]
    assert names == [b"queued", b"started", *[b"token"] * 20, b"completed"]


async def test_a_worker_that_lost_its_lease_adds_nothing_more(
    memory_store: MemoryStore, make_worker: MakeWorker
) -> None:
    """Cut off for longer than its lease, it comes back to a job that somebody else has ended."""
    worker = make_worker(tokens_per_s=50, lease_s=1.0)
    job = prompt_job("fenced", 10_000)
    await put(memory_store, job)
    await wait_until(lambda: worker.engine.running)
    worker.faults.away = True
    await memory_store.cancel(job.channel_id, StopReason.CLIENT)

    async def reaped() -> bool:
        await memory_store.reap(MODEL, max_failures=3, limit=10)
        return (await state(memory_store, job)).status is Status.CANCELLED

    await wait_until(reaped)
    tail = (await state(memory_store, job)).tail
    worker.faults.away = False
    await wait_until(lambda: not worker.engine.running)
    assert (await state(memory_store, job)).tail == tail


async def test_a_drain_finishes_what_fits_and_hands_back_the_rest(
    memory_store: MemoryStore,
) -> None:
    worker = Worker(memory_ports(memory_store), tokens_per_s=100, drain_s=3)
    running = asyncio.create_task(worker.run())
    short, long = prompt_job("short", 20), prompt_job("long", 10_000)
    await put(memory_store, short, long)
    await wait_until(lambda: len(worker.engine.running) == 2)
    await worker.drain()
    await running
    assert (await state(memory_store, short)).status is Status.COMPLETED
    assert (await state(memory_store, long)).status is Status.QUEUED
    take = await memory_store.take(
        TakeRequest(MODEL, 1, worker_id="next", call_id="1", lease_s=60, idle=True)
    )
    [again] = take.jobs
    assert again.failures == 0
    await end_task(running)


async def begun(
    store: MemoryStore, make_worker: MakeWorker, job: Job, *, drain_s: float = 5.0
) -> Worker:
    """A worker that has published a few of the job's tokens."""
    worker = make_worker(tokens_per_s=50, drain_s=drain_s)
    await put(store, job)
    await wait_until(lambda: _tail_over(store, job, 5))
    return worker


async def test_a_job_cut_after_its_first_token_goes_on_where_it_stopped(
    memory_store: MemoryStore, make_worker: MakeWorker
) -> None:
    job = prompt_job("cut", 200)
    first = await begun(memory_store, make_worker, job)
    await first.die()
    tail = (await state(memory_store, job)).tail
    second = make_worker()
    ended = await reached(memory_store, job, Status.COMPLETED)
    assert ended.text == answer("cut", 200)
    log = await read_log(memory_store, job)
    tokens = [event for event in log if isinstance(event, Token)]
    assert "".join(token.text for token in tokens) == ended.text
    assert [len(token.token_ids) for token in tokens] == [1] * 200
    assert sum(isinstance(event, Started) for event in log) == 1
    completed = log[-1]
    assert isinstance(completed, Completed)
    assert completed.usage.output_tokens == 200
    # The second engine was asked for what was missing, and no more.
    assert second.engine.steps == 200 - (tail - 2)


async def test_a_job_handed_back_by_a_drain_goes_on_where_it_stopped(
    memory_store: MemoryStore, make_worker: MakeWorker
) -> None:
    job = prompt_job("drained", 300)
    first = await begun(memory_store, make_worker, job, drain_s=0.0)
    make_worker(tokens_per_s=500)
    await first.drain()
    ended = await reached(memory_store, job, Status.COMPLETED)
    assert ended.text == answer("drained", 300)
    assert sum(isinstance(event, Started) for event in await read_log(memory_store, job)) == 1


async def test_a_cut_job_that_cannot_go_on_fails_unless_it_may_be_restarted(
    memory_store: MemoryStore, make_worker: MakeWorker
) -> None:
    seeded = Sampling(max_tokens=100, temperature=1.0, seed=7)
    strict = make_job(prompt="strict", sampling=seeded)
    lenient = make_job(prompt="lenient", sampling=seeded, on_worker_loss=OnWorkerLoss.RESTART)
    first = await begun(memory_store, make_worker, strict)
    await put(memory_store, lenient)
    await wait_until(lambda: _tail_over(memory_store, lenient, 5))
    await first.die()
    make_worker()
    error = (await failure(memory_store, strict)).error
    assert (error.code, "seeded" in error.message) == ("not_resumable", True)
    ended = await reached(memory_store, lenient, Status.COMPLETED)
    assert ended.text == answer("lenient", 100)
    log = await read_log(memory_store, lenient)
    at = next(i for i, event in enumerate(log) if isinstance(event, Restarted))
    after = [event.text for event in log[at:] if isinstance(event, Token)]
    assert "".join(after) == ended.text


async def test_a_request_that_kills_engines_is_set_aside_and_its_company_is_not(
    memory_store: MemoryStore, make_worker: MakeWorker
) -> None:
    poison, innocent = prompt_job("[engine-death]", 50), prompt_job("innocent", 40)
    worker = make_worker(tokens_per_s=200)
    await put(memory_store, innocent, poison)
    for _ in range(4):
        with suppress(BaseExceptionGroup):
            await worker.ended()
        worker = make_worker(tokens_per_s=200)
        if (await state(memory_store, poison)).status is Status.FAILED:
            break
    assert (await failure(memory_store, poison)).error.code == "worker_lost"
    assert (await reached(memory_store, innocent, Status.COMPLETED)).text == answer("innocent", 40)


async def test_a_suspect_is_served_although_no_worker_is_ever_idle_of_itself(
    memory_store: MemoryStore, make_worker: MakeWorker
) -> None:
    worker = make_worker(tokens_per_s=100, max_num_seqs=2)
    others = [prompt_job(f"other {number}", 10 + number % 7) for number in range(60)]
    await put(memory_store, *others)
    await wait_until(lambda: len(worker.engine.running) == 2)
    suspect = prompt_job("suspect", priority=Priority.HIGH)
    await put(memory_store, suspect)
    await charge(memory_store)
    await reached(memory_store, suspect, Status.COMPLETED)
    statuses = [(await state(memory_store, job)).status for job in others]
    assert Status.QUEUED in statuses


async def test_a_job_that_was_stopped_here_and_ended_elsewhere_is_let_go(
    memory_store: MemoryStore, make_worker: MakeWorker
) -> None:
    """Its own deadline passes first; then it hears that the lease is lost."""
    worker = make_worker(tokens_per_s=100, lease_s=1.0)
    job = prompt_job("late", 1000, deadline_s=2.0)
    await put(memory_store, job)
    await wait_until(lambda: _tail_over(memory_store, job, 5))
    worker.faults.away = True
    await wait_until(lambda: not worker.engine.running)

    async def expired() -> bool:
        await memory_store.reap(MODEL, max_failures=3, limit=10)
        return (await state(memory_store, job)).status is Status.EXPIRED

    await wait_until(expired)
    worker.faults.away = False
    await wait_until(lambda: len(worker.held_jobs) == 0)
