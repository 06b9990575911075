"""A worker without room hands places on to keys that run less, and every answer stays what it was."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

import pytest

from relais_common.jobs.job import Job, Priority, Sampling, Status
from relais_common.worker import consumer as consumer_module
from relais_common.worker import publisher as publisher_module
from relais_llm_worker import generate as generate_module
from relais_llm_worker.engines.engine_deterministic import answer_text
from relais_testing.builders import MODEL, make_job
from relais_testing.memory import MemoryStore
from relais_testing.plain_logs import use_plain_logs
from relais_testing.ports import memory_ports
from relais_testing.waiting import wait_until
from relais_testing.worker import Worker

MakeWorker = Callable[..., Worker]
LONG = 3_000


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    use_plain_logs()
    monkeypatch.setattr(consumer_module, "FULL_ASK_S", 0.01)


@pytest.fixture
async def make_worker(memory_store: MemoryStore) -> AsyncIterator[MakeWorker]:
    workers: list[Worker] = []

    def make(**settings: Any) -> Worker:
        # Its lease outlasts whatever a busy machine does to it.
        worker = Worker(memory_ports(memory_store), lease_s=600, **settings)
        workers.append(worker)
        worker.start()
        return worker

    yield make
    for worker in workers:
        await worker.kill()


def ask(key_id: str, name: str, tokens: int, **sampling: Any) -> Job:
    return make_job(key_id, prompt=name, sampling=Sampling(max_tokens=tokens, **sampling))


def answer(job: Job) -> str:
    assert isinstance(job.prompt, str)
    assert job.sampling.max_tokens is not None
    return answer_text(list(job.prompt.encode()), job.sampling.max_tokens)


async def put(store: MemoryStore, *jobs: Job) -> None:
    for job in jobs:
        await store.enqueue(job, max_waiting=10_000)


async def status(store: MemoryStore, job: Job) -> Status:
    found = await store.state(job.channel_id)
    assert found is not None
    return found.status


async def ended(store: MemoryStore, job: Job) -> str:
    async def text() -> str | None:
        found = await store.state(job.channel_id)
        assert found is not None
        return found.text if found.status is Status.COMPLETED else None

    found = await wait_until(text)
    assert found is not None
    return found


async def full(store: MemoryStore, worker: Worker, jobs: list[Job], places: int) -> None:
    await put(store, *jobs)
    await wait_until(lambda: len(worker.engine.running) == places)


async def test_short_request_does_not_wait_for_the_end_of_any_of_another_key_s_long_ones(
    memory_store: MemoryStore, make_worker: MakeWorker
) -> None:
    worker = make_worker(max_num_seqs=4, tokens_per_s=200)
    flood = [ask("flood", f"long {i}", LONG) for i in range(50)]
    await full(memory_store, worker, flood, 4)
    for number in range(3):
        victim = ask("victim", f"short {number}", 5)
        await put(memory_store, victim)
        assert await ended(memory_store, victim) == answer(victim)
        begun = [one for one in flood if len(memory_store_log(memory_store, one)) > 1]
        # None of the flood has ended, and no more of it was begun than the victim left a place to.
        assert [await status(memory_store, one) for one in begun].count(Status.COMPLETED) == 0
        assert len(begun) == 4


def memory_store_log(store: MemoryStore, job: Job) -> list[bytes]:
    return store._model(MODEL).records[job.channel_id].log


async def test_answers_that_lost_their_places_again_and_again_are_complete_to_the_letter(
    memory_store: MemoryStore, make_worker: MakeWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generate_module, "PROGRESS", 4)
    worker = make_worker(max_num_seqs=3, tokens_per_s=300)
    flood = [ask("flood", f"long {i}", 200) for i in range(4)]
    await full(memory_store, worker, flood, 3)
    for number in range(8):
        victim = ask("victim", f"short {number}", 2)
        await put(memory_store, victim)
        await ended(memory_store, victim)
    for job in flood:
        assert await ended(memory_store, job) == answer(job)
    records = memory_store._model(MODEL).records
    assert sum(records[job.channel_id].preempted for job in flood) >= 3
    assert {records[job.channel_id].failures for job in flood} == {0}


async def test_line_of_a_batch_gives_its_place_as_soon_as_it_is_asked(
    memory_store: MemoryStore, make_worker: MakeWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consumer_module, "FULL_ASK_S", 3600.0)
    worker = make_worker(max_num_seqs=4, tokens_per_s=200)
    lines = [
        make_job(
            "one", prompt=f"line {i}", sampling=Sampling(max_tokens=LONG), priority=Priority.BATCH
        )
        for i in range(10)
    ]
    await put(memory_store, *lines)
    for number in range(3):
        await wait_until(lambda: len(worker.engine.running) == 4)
        victim = ask("one", f"short {number}", 5)
        await put(memory_store, victim)
        assert await ended(memory_store, victim) == answer(victim)


async def test_key_that_is_alone_keeps_all_places(
    memory_store: MemoryStore, make_worker: MakeWorker
) -> None:
    worker = make_worker(max_num_seqs=4, tokens_per_s=200)
    flood = [ask("alone", f"long {i}", LONG) for i in range(8)]
    await full(memory_store, worker, flood, 4)
    running = worker.engine.running
    asked = worker.faults.count("take")
    await wait_until(lambda: worker.faults.count("take") > asked + 5)
    assert worker.engine.running == running


async def test_answer_that_cannot_go_on_keeps_its_place(
    memory_store: MemoryStore, make_worker: MakeWorker
) -> None:
    worker = make_worker(max_num_seqs=3, tokens_per_s=200)
    seeded = [ask("flood", f"seeded {i}", LONG, seed=1, temperature=1.0) for i in range(2)]
    plain = ask("flood", "plain", LONG)
    # The newest are those that cannot go on.
    await full(memory_store, worker, [plain, *seeded], 3)
    await wait_until(
        lambda: all(len(memory_store_log(memory_store, one)) > 3 for one in [plain, *seeded])
    )
    victim = ask("victim", "short", 2)
    await put(memory_store, victim)
    await ended(memory_store, victim)
    assert [await status(memory_store, one) for one in seeded] == [Status.RUNNING] * 2
    records = memory_store._model(MODEL).records
    assert [records[one.channel_id].preempted for one in [plain, *seeded]] == [1, 0, 0]


async def test_worker_whose_requests_cannot_go_on_asks_nothing(
    memory_store: MemoryStore, make_worker: MakeWorker
) -> None:
    worker = make_worker(max_num_seqs=2, tokens_per_s=200)
    seeded = [ask(key_id, "seeded", LONG, seed=1, temperature=1.0) for key_id in ("one", "two")]
    await full(memory_store, worker, seeded, 2)
    await wait_until(lambda: all(len(memory_store_log(memory_store, one)) > 3 for one in seeded))
    asked = worker.faults.count("take")
    steps = worker.engine.steps
    await wait_until(lambda: worker.engine.steps > steps + 40)
    assert worker.faults.count("take") <= asked + 1


@pytest.mark.parametrize("priority", [Priority.NORMAL, Priority.BATCH])
async def test_job_that_lost_its_place_gets_on_before_it_loses_it_again(
    memory_store: MemoryStore,
    make_worker: MakeWorker,
    monkeypatch: pytest.MonkeyPatch,
    priority: Priority,
) -> None:
    """What a batch's line has made and not sent is lost with its place, and no progress."""
    monkeypatch.setattr(generate_module, "PROGRESS", 10)
    monkeypatch.setattr(publisher_module, "BATCH_LINE_S", 0.2)
    worker = make_worker(max_num_seqs=2, tokens_per_s=500, stream_interval_s=0.02)
    flood = [replace(ask("flood", f"long {i}", 60), priority=priority) for i in range(2)]
    await full(memory_store, worker, flood, 2)
    stop = asyncio.Event()

    async def keep_asking() -> int:
        number = 0
        while not stop.is_set():
            victim = ask(f"victim {number}", "short", 1)
            await put(memory_store, victim)
            await ended(memory_store, victim)
            number += 1
        return number

    asking = asyncio.create_task(keep_asking())
    for job in flood:
        assert await ended(memory_store, job) == answer(job)
    stop.set()
    assert await asking > 0
    records = memory_store._model(MODEL).records
    assert all(records[job.channel_id].preempted <= 1 + 60 // 10 for job in flood)


async def test_lost_answer_of_a_swap_is_asked_for_again(
    memory_store: MemoryStore, make_worker: MakeWorker
) -> None:
    worker = make_worker(max_num_seqs=2, tokens_per_s=200)
    flood = [ask("flood", f"long {i}", 300) for i in range(2)]
    await full(memory_store, worker, flood, 2)
    worker.faults.lose_answer("take", 2)
    victim = ask("victim", "short", 3)
    await put(memory_store, victim)
    assert await ended(memory_store, victim) == answer(victim)
    for job in flood:
        assert await ended(memory_store, job) == answer(job)


async def test_a_key_whose_answers_cannot_go_on_elsewhere_leaves_a_place_to_others(
    memory_store: MemoryStore, make_worker: MakeWorker
) -> None:
    fixed = {"seed": 1, "temperature": 1.0}
    worker = make_worker(max_num_seqs=4, tokens_per_s=200)
    flood = [ask("flood", f"long {i}", LONG, **fixed) for i in range(50)]
    await full(memory_store, worker, flood, 3)
    for number in range(3):
        short = ask("other", f"short {number}", 5, **fixed)
        await put(memory_store, short)
        assert await ended(memory_store, short) == answer(short)
    assert len(worker.engine.running) == 3
    running = [await status(memory_store, job) for job in flood]
    assert running.count(Status.RUNNING) == 3
    assert running.count(Status.COMPLETED) == 0
