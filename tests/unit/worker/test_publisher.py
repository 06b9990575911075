"""Sending events: one call for all of one turn, again after a failure, from the tail that the log has."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import cast

import pytest

from relais_common.jobs.events import Token
from relais_common.jobs.job import Append, Job, Priority, Verdict
from relais_common.queue.ports import JobSource, TakeRequest
from relais_common.runtime.lifecycle import background
from relais_common.worker import publisher as publisher_module
from relais_common.worker.held import LINES_PER_APPEND, HeldJob
from relais_common.worker.publisher import AT_ONCE_PER_S, MEASURED_S, Publisher
from relais_testing.builders import MODEL, hold, make_job
from relais_testing.clock import Clock
from relais_testing.faults import Faults
from relais_testing.memory import MemoryStore
from relais_testing.owned import end_task
from relais_testing.waiting import wait_until


@pytest.fixture
def faults() -> Faults:
    return Faults()


@pytest.fixture
async def publisher(memory_store: MemoryStore, faults: Faults) -> AsyncIterator[Publisher]:
    publisher = Publisher(faults.around(memory_store))
    running = asyncio.create_task(publisher.run())
    yield publisher
    await end_task(running)


async def take(store: MemoryStore, count: int) -> list[HeldJob]:
    return await take_these(store, *(make_job() for _ in range(count)))


async def take_these(store: MemoryStore, *jobs: Job) -> list[HeldJob]:
    for job in jobs:
        await store.enqueue(job, max_waiting=100)
    take = await store.take(
        TakeRequest(MODEL, len(jobs), worker_id="w", call_id="1", lease_s=60, idle=False)
    )
    return [hold(one) for one in take.jobs]


async def test_what_comes_up_in_one_turn_goes_in_one_call(
    memory_store: MemoryStore, faults: Faults, publisher: Publisher
) -> None:
    held_jobs = await take(memory_store, 10)
    for held in held_jobs:
        held.add(Token("a", (1,)))
        publisher.send(held)
    await wait_until(lambda: not any(held.has_unsent for held in held_jobs))
    assert faults.count("append") == 1


def add(publisher: Publisher, held: HeldJob, text: str) -> None:
    held.add(Token(text, (1,)))
    publisher.send(held)


async def sent(held: HeldJob) -> None:
    await wait_until(lambda: not held.has_unsent)


async def test_few_events_leave_as_they_come(memory_store: MemoryStore, faults: Faults) -> None:
    publisher = Publisher(faults.around(memory_store), interval_s=3600)
    async with background(publisher.run()):
        [held] = await take(memory_store, 1)
        for number in range(1, 9):
            add(publisher, held, "a")
            await sent(held)
            assert faults.count("append") == number


@pytest.mark.parametrize("pause_s", [0.01, 3600])
async def test_a_batch_s_line_waits_after_its_first_event_and_holds_up_no_other(
    memory_store: MemoryStore, monkeypatch: pytest.MonkeyPatch, pause_s: float
) -> None:
    monkeypatch.setattr(publisher_module, "BATCH_LINE_S", pause_s)
    publisher = Publisher(memory_store, interval_s=3600)
    async with background(publisher.run()):
        other, line = await take_these(memory_store, make_job(), make_job(priority=Priority.BATCH))
        add(publisher, line, "a")
        await sent(line)
        add(publisher, line, "b")
        for _ in range(3):
            add(publisher, other, "b")
            await sent(other)
        if pause_s < 1:
            await sent(line)
        else:
            assert line.has_unsent


async def test_lines_of_batches_that_wait_share_a_call(
    memory_store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = SlowSource(memory_store)
    publisher = Publisher(cast("JobSource", source), interval_s=3600)
    async with background(publisher.run()):
        lines = await take_these(
            memory_store, *(make_job(priority=Priority.BATCH) for _ in range(3))
        )
        for text, first_pause_s in (("a", 3600.0), ("b", 0.01)):
            source.may.release()
            monkeypatch.setattr(publisher_module, "BATCH_LINE_S", first_pause_s)
            for line in lines:
                add(publisher, line, text)
                # The others go with the first.
                monkeypatch.setattr(publisher_module, "BATCH_LINE_S", 3600.0)
            for line in lines:
                await sent(line)
    assert source.calls == [3, 3]


@pytest.mark.parametrize(
    ("most_bytes", "texts"), [(1 << 30, ("b",)), (1000, ("b", "b" * 2000, "c" * 300))]
)
async def test_what_people_wait_for_goes_ahead_of_lines_that_more_than_fill_a_call(
    memory_store: MemoryStore,
    monkeypatch: pytest.MonkeyPatch,
    most_bytes: int,
    texts: Sequence[str],
) -> None:
    monkeypatch.setattr(publisher_module, "BATCH_LINES_BYTES", most_bytes)
    source = SlowSource(memory_store)
    publisher = Publisher(cast("JobSource", source), interval_s=3600)
    async with background(publisher.run()):
        first, other, *lines = await take_these(
            memory_store,
            *(make_job(priority=(Priority.BATCH, Priority.LOW)[n < 2]) for n in range(9)),
        )
        source.may.release()
        add(publisher, first, "a")
        await sent(first)
        for number in range(LINES_PER_APPEND // 2):
            for line in lines:
                line.add(Token(texts[number % len(texts)], (1,)))
        for line in lines:
            publisher.send(line)
        await wait_until(lambda: len(source.calls) == 2)
        add(publisher, first, "b")
        add(publisher, other, "a")
        source.may.release()
        await wait_until(lambda: len(source.calls) == 3)
        assert [one.lease for one in source.appends[2][:2]] == [other.lease, first.lease]
        for _ in range(len(lines) * LINES_PER_APPEND):
            source.may.release()
        for held in (first, other, *lines):
            await sent(held)
    leases = {line.lease for line in lines}
    for appends in source.appends:
        events = [event for one in appends if one.lease in leases for event in one.lines]
        assert len(events) <= LINES_PER_APPEND
        assert len(events) == 1 or sum(map(len, events)) <= most_bytes


class SlowSource:
    """Appends when it may, one call at a time."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store
        self.calls: list[int] = []
        self.appends: list[Sequence[Append]] = []
        self.may = asyncio.Semaphore(0)

    async def append(self, appends: Sequence[Append]) -> list[Verdict]:
        self.calls.append(sum(len(one.lines) for one in appends))
        self.appends.append(appends)
        await self.may.acquire()
        return await self._store.append(appends)


async def test_what_comes_during_a_call_goes_with_the_next_after_a_pause_as_long(
    memory_store: MemoryStore,
) -> None:
    source = SlowSource(memory_store)
    publisher = Publisher(cast("JobSource", source), interval_s=3600)
    loop = asyncio.get_running_loop()
    async with background(publisher.run()):
        [held] = await take(memory_store, 1)
        source.may.release()
        add(publisher, held, "a")
        await sent(held)
        add(publisher, held, "b")
        await wait_until(lambda: source.calls == [1, 1])
        began_s = loop.time()
        for text in "cde":
            add(publisher, held, text)
            await asyncio.sleep(0.05)
        took_s = loop.time() - began_s
        assert source.calls == [1, 1]
        source.may.release()
        source.may.release()
        await sent(held)
        assert source.calls == [1, 1, 3]
        assert loop.time() - began_s >= 2 * took_s


@pytest.fixture
def many_at_once(monkeypatch: pytest.MonkeyPatch) -> int:
    """So many events count as many, however long they take to make: the time of their rate stands still."""
    monkeypatch.setattr(publisher_module, "time", Clock())
    return int(AT_ONCE_PER_S * MEASURED_S) + 1


async def test_while_many_events_come_calls_are_an_interval_apart(
    memory_store: MemoryStore, many_at_once: int
) -> None:
    interval_s = 0.5
    publisher = Publisher(memory_store, interval_s=interval_s)
    async with background(publisher.run()):
        [held] = await take(memory_store, 1)
        add(publisher, held, "a")
        await sent(held)
        began_s = asyncio.get_running_loop().time()
        for _ in range(many_at_once):
            add(publisher, held, "b")
        await sent(held)
        add(publisher, held, "c")
        await sent(held)
        assert asyncio.get_running_loop().time() - began_s >= interval_s


async def test_while_many_events_come_a_first_one_does_not_wait(
    memory_store: MemoryStore, faults: Faults, many_at_once: int
) -> None:
    publisher = Publisher(faults.around(memory_store), interval_s=3600)
    async with background(publisher.run()):
        early, late = await take(memory_store, 2)
        add(publisher, early, "a")
        await sent(early)
        for _ in range(many_at_once):
            add(publisher, early, "b")
        await sent(early)
        calls = faults.count("append")
        for text in "cde":
            add(publisher, early, text)
            await asyncio.sleep(0)
        add(publisher, late, "a")
        await sent(late)
        assert early.has_unsent
        assert faults.count("append") == calls + 1


async def test_a_failed_call_is_made_again_with_all_that_came_up_since(
    memory_store: MemoryStore, faults: Faults, publisher: Publisher
) -> None:
    [held] = await take(memory_store, 1)
    faults.refuse("append", 2)
    for text in "abc":
        held.add(Token(text, (1,)))
        publisher.send(held)
        await asyncio.sleep(0)
    await wait_until(lambda: not held.has_unsent)
    lines = await memory_store.read(held.lease.channel_id, after=1, limit=10)
    assert len(lines) == 3
    assert faults.count("append") >= 3


async def test_a_log_that_came_back_short_is_filled_again(
    memory_store: MemoryStore, publisher: Publisher
) -> None:
    [held] = await take(memory_store, 1)
    for text in "abcd":
        held.add(Token(text, (1,)))
    publisher.send(held)
    await wait_until(lambda: not held.has_unsent)
    channel_id = held.lease.channel_id
    before = await memory_store.read(channel_id, after=0, limit=10)
    del (await _log(memory_store, channel_id))[3:]
    held.heed(Verdict(held=True, tail=3))
    assert held.has_unsent
    publisher.send(held)
    await wait_until(lambda: not held.has_unsent)
    assert await memory_store.read(channel_id, after=0, limit=10) == before


async def test_a_log_that_comes_back_short_is_filled_by_the_next_call(
    memory_store: MemoryStore, publisher: Publisher
) -> None:
    [held] = await take(memory_store, 1)

    async def send(text: str) -> None:
        held.add(Token(text, (1,)))
        publisher.send(held)
        await wait_until(lambda: not held.has_unsent)

    for text in "abc":
        await send(text)
    channel_id = held.lease.channel_id
    before = await memory_store.read(channel_id, after=0, limit=10)
    del (await _log(memory_store, channel_id))[2:]
    await send("d")
    assert (await memory_store.read(channel_id, after=0, limit=10))[:-1] == before


async def _log(store: MemoryStore, channel_id: str) -> list[bytes]:
    _, record = store._of(channel_id)  # what no port can do: lose events
    assert record is not None
    return record.log
