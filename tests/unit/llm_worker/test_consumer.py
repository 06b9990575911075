"""How the worker's loop takes, holds and lets go, over the store in memory and a handler of the test's own."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections import defaultdict
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
from structlog.testing import capture_logs

from relais_common.jobs.errors import EngineDead, EngineRefused
from relais_common.jobs.events import Failed, Terminal, Token, Usage
from relais_common.jobs.job import Job, Lease, Priority, Status, StopReason, Take, Verdict
from relais_common.queue.ports import TakeRequest
from relais_common.runtime.lifecycle import background
from relais_common.worker import consumer as consumer_module
from relais_common.worker.consumer import Consumer, ConsumerSettings
from relais_common.worker.held import HeldJob, HeldJobs
from relais_common.worker.leases import listen_for_stops, renew_for_ever
from relais_common.worker.publisher import Publisher
from relais_testing.builders import COMPLETED, MODEL, make_job, worker_metrics
from relais_testing.faults import Faults
from relais_testing.memory import MemoryStore
from relais_testing.owned import end_task
from relais_testing.ports import Ports
from relais_testing.steps import crash, enqueue, events, ids, start, take
from relais_testing.waiting import wait_until

LEASE_S = 1.5


class ScriptedHandler:
    """Each job waits until the test lets it end, and how."""

    def __init__(self, places: int) -> None:
        self.places = places
        self.enough: frozenset[str] = frozenset()
        self.begun: list[str] = []
        self.ends: dict[str, asyncio.Future[Terminal]] = defaultdict(
            lambda: asyncio.get_running_loop().create_future()
        )

    def room(self, held: int) -> int:
        return self.places - held

    def enough_of(self, held: Collection[HeldJob]) -> frozenset[str]:
        return self.enough

    def can_preempt(self, held: HeldJob) -> bool:
        return False

    async def handle(self, held: HeldJob) -> Terminal:
        self.begun.append(held.lease.channel_id)
        return await self.ends[held.lease.channel_id]

    def complete(self, job: Job) -> None:
        self.ends[job.channel_id].set_result(COMPLETED)


class Rig:
    """A consumer with the loops it needs. Its store may be taken away by `faults`."""

    def __init__(
        self, ports: Ports, faults: Faults, *, places: int = 4, drain_s: float = 5.0
    ) -> None:
        source = faults.around(ports.source)
        self.held_jobs = HeldJobs()
        self.handler = ScriptedHandler(places)
        self.stop = asyncio.Event()
        self._source = source
        self._publisher = Publisher(source)
        self._consumer = Consumer(
            source,
            self.handler,
            self.held_jobs,
            ConsumerSettings(MODEL, "worker-1", LEASE_S, drain_s, max_failures=3),
            worker_metrics(),
        )

    async def _run(self) -> None:
        async with background(
            self._publisher.run(),
            renew_for_ever(self._source, self.held_jobs, self._publisher, lease_s=LEASE_S),
            listen_for_stops(self._source, self.held_jobs, MODEL, lease_s=LEASE_S),
        ):
            await self._consumer.run(self.stop)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[asyncio.Task[None]]:
        task = asyncio.create_task(self._run())
        try:
            yield task
        finally:
            await end_task(task)

    def send(self, held: HeldJob) -> None:
        self._publisher.send(held)

    async def begun(self, count: int) -> None:
        await wait_until(lambda: len(self.handler.begun) == count)


@pytest.fixture
def rig(ports: Ports, faults: Faults) -> Rig:
    return Rig(ports, faults)


async def status(ports: Ports, job: Job) -> Status:
    state = await ports.intake.state(job.channel_id)
    assert state is not None
    return state.status


async def test_end_of_a_job_frees_its_place_for_the_oldest_that_waits(
    ports: Ports, faults: Faults
) -> None:
    rig = Rig(ports, faults, places=2)
    jobs = [make_job() for _ in range(4)]
    await enqueue(ports, *jobs)
    async with rig.running():
        await rig.begun(2)
        assert (await ports.intake.depth(MODEL)).waiting == 2
        rig.handler.complete(jobs[1])
        await rig.begun(3)
        rig.handler.complete(jobs[0])
        await rig.begun(4)
    assert rig.handler.begun == ids(jobs)
    assert all(args[0].limit <= 2 for name, args, _ in faults.calls if name == "take")


async def test_worker_with_room_that_has_enough_of_a_key_asks_once_for_what_it_hears_of(
    rig: Rig, ports: Ports, faults: Faults, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consumer_module, "FULL_POLL_S", 3600.0)
    take_at_once = ports.source.take

    async def take_later(request: TakeRequest) -> Take:
        await asyncio.sleep(
            0
        )  # as over a network: others run meanwhile, however often it is called
        return await take_at_once(request)

    monkeypatch.setattr(ports.source, "take", take_later)
    lines = [make_job("a", priority=Priority.BATCH) for _ in range(2)]
    async with rig.running():
        await enqueue(ports, lines[0])
        await rig.begun(1)
        rig.handler.enough = frozenset({"a"})
        await enqueue(ports, lines[1], make_job("b"))
        await rig.begun(2)
        rig.held_jobs.ask_lines()
        takes, renewals = faults.count("take"), faults.count("renew")
        await wait_until(lambda: faults.count("renew") > renewals + 2)
        assert faults.count("take") <= takes + 3
        assert await status(ports, lines[1]) is Status.QUEUED


@pytest.mark.parametrize("fault", ["refuse", "lose_answer"])
async def test_take_whose_answer_did_not_come_is_asked_for_again_under_the_same_call_id(
    rig: Rig, ports: Ports, faults: Faults, fault: str
) -> None:
    jobs = [make_job() for _ in range(3)]
    await enqueue(ports, *jobs)
    getattr(faults, fault)("take", 2)
    async with rig.running():
        await rig.begun(3)
        assert rig.handler.begun == ids(jobs)
    calls = [args[0].call_id for name, args, _ in faults.calls if name == "take"]
    assert calls[0] == calls[1] == calls[2]
    assert calls[3] != calls[2]


async def test_worker_whose_room_goes_has_nothing_left_to_it_any_more(
    rig: Rig, ports: Ports, faults: Faults
) -> None:
    await enqueue(ports, make_job())
    async with rig.running():
        await rig.begun(1)
        rig.handler.places = 0
        await enqueue(ports, make_job())
        await wait_until(lambda: _limits(faults)[-1] == 0)
        assert _limits(faults).count(0) == 1


async def test_worker_that_stops_has_nothing_left_to_it_any_more(
    rig: Rig, ports: Ports, faults: Faults
) -> None:
    async with rig.running() as task:
        await wait_until(lambda: _limits(faults))
        rig.stop.set()
        await task
    assert _limits(faults)[-1] == 0


async def test_worker_that_stops_runs_what_came_with_an_answer_that_was_lost(
    rig: Rig, ports: Ports, faults: Faults
) -> None:
    job = make_job()
    await enqueue(ports, job)
    faults.lose_answer("take", 1)
    async with rig.running() as task:
        await wait_until(lambda: _limits(faults))
        rig.stop.set()
        await rig.begun(1)
        rig.handler.complete(job)
        await task
    assert await status(ports, job) is Status.COMPLETED


def _limits(faults: Faults) -> list[int]:
    return [args[0].limit for name, args, _ in faults.calls if name == "take"]


async def test_suspect_runs_alone_and_the_others_wait_for_its_end(rig: Rig, ports: Ports) -> None:
    suspect, other = make_job(), make_job()
    await enqueue(ports, suspect)
    (taken,) = await take(ports, worker_id="dead")
    await start(ports, taken.lease)
    await crash(ports, taken.lease)
    await enqueue(ports, other)
    async with rig.running():
        await rig.begun(1)
        assert rig.handler.begun == [suspect.channel_id]
        assert rig.held_jobs.hands.suspect
        # A few looks at the room that there seems to be.
        await asyncio.sleep(3 * consumer_module.FULL_POLL_S)
        assert rig.handler.begun == [suspect.channel_id]
        rig.handler.complete(suspect)
        await rig.begun(2)
        assert rig.handler.begun[1] == other.channel_id


async def test_busy_worker_leaves_a_suspect_to_an_idle_one(rig: Rig, ports: Ports) -> None:
    busy_with, suspect = make_job(), make_job()
    await enqueue(ports, busy_with)
    async with rig.running():
        await rig.begun(1)
        await enqueue(ports, suspect)
        await rig.begun(2)
        first = rig.held_jobs.get(suspect.channel_id)
        assert first is not None
        await start(ports, first.lease)
        await crash(ports, first.lease)
        await wait_until(lambda: rig.held_jobs.get(suspect.channel_id) is None)
        await asyncio.sleep(3 * consumer_module.FULL_POLL_S)
        assert await status(ports, suspect) is Status.QUEUED
        rig.handler.complete(busy_with)
        await rig.begun(3)
    assert rig.handler.begun[2] == suspect.channel_id


async def test_dead_engine_hands_jobs_back_to_the_front_in_their_order(
    rig: Rig, ports: Ports
) -> None:
    held = [make_job() for _ in range(4)]
    await enqueue(ports, *held)
    async with rig.running() as task:
        await rig.begun(4)
        late = make_job()
        await enqueue(ports, late)
        rig.handler.ends[held[2].channel_id].set_exception(EngineDead("gone"))
        await asyncio.wait({task})
        with pytest.raises(ExceptionGroup) as caught:
            task.result()
    assert caught.group_contains(EngineDead)
    again = await take(ports, 10, worker_id="other")
    assert ids(again) == ids([*held, late])
    assert all(taken.failures == 0 for taken in again)


async def test_dead_engine_s_jobs_are_handed_back_though_one_cannot_be_stopped(
    rig: Rig, ports: Ports, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consumer_module, "HAND_BACK_TIMEOUT_S", 0.05)
    held = [make_job() for _ in range(2)]
    deaf, released = held[0].channel_id, asyncio.Event()
    handle = rig.handler.handle

    async def handle_or_be_deaf(one: HeldJob) -> Terminal:
        try:
            return await handle(one)
        finally:
            if one.lease.channel_id == deaf:
                await released.wait()

    rig.handler.handle = handle_or_be_deaf  # type: ignore[method-assign, assignment]
    await enqueue(ports, *held)
    with capture_logs() as logs:
        async with rig.running() as task:
            await rig.begun(2)
            rig.handler.ends[held[1].channel_id].set_exception(EngineDead("gone"))
            await asyncio.wait({task})
            with pytest.raises(ExceptionGroup):
                task.result()
    released.set()
    assert "job_cancel_timed_out" in [one["event"] for one in logs]
    assert ids(await take(ports, 10, worker_id="other")) == ids(held)


async def test_engine_that_dies_of_a_stop_ends_the_worker(rig: Rig, ports: Ports) -> None:
    job = make_job()

    async def die_when_stopped(one: HeldJob) -> Terminal:
        rig.handler.begun.append(one.lease.channel_id)
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise EngineDead("gone") from None
        raise AssertionError

    rig.handler.handle = die_when_stopped  # type: ignore[method-assign, assignment]
    await enqueue(ports, job)
    async with rig.running() as task:
        await rig.begun(1)
        held = rig.held_jobs.get(job.channel_id)
        assert held is not None
        held.halt(StopReason.CLIENT)
        await asyncio.wait({task})
        with pytest.raises(ExceptionGroup) as caught:
            task.result()
    assert caught.group_contains(EngineDead)
    assert await status(ports, job) is Status.CANCELLED


@pytest.mark.parametrize(
    ("suspected", "failed"), [(1, 1), (2, 0)], ids=["it alone", "it or another"]
)
async def test_stuck_engine_fails_the_one_that_must_be_why_and_hands_the_others_back(
    rig: Rig, ports: Ports, suspected: int, failed: int
) -> None:
    held = [make_job() for _ in range(3)]
    await enqueue(ports, *held)
    async with rig.running() as task:
        await rig.begun(3)
        rig.held_jobs.suspicion = frozenset(ids(held[:suspected]))
        rig.handler.ends[held[2].channel_id].set_exception(EngineDead("stuck"))
        await asyncio.wait({task})
        with pytest.raises(ExceptionGroup):
            task.result()
    for job in held[:failed]:
        (*_, end) = await events(ports, job.channel_id)
        assert isinstance(end, Failed)
        assert end.error.code == "engine_stalled"
    for job in held[failed:]:
        assert await status(ports, job) is Status.QUEUED


async def test_log_that_comes_back_short_at_the_end_is_filled_again(
    rig: Rig, ports: Ports, memory_store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = make_job()
    finish = memory_store.finish
    tails: list[int] = []

    async def finish_on_a_cut_log(lease: Lease, **end: Any) -> Verdict:
        if not tails:
            _, record = memory_store._of(lease.channel_id)  # what no port can do: lose events
            assert record is not None
            del record.log[2:]
        verdict = await finish(lease, **end)
        tails.append(verdict.tail)
        return verdict

    monkeypatch.setattr(memory_store, "finish", finish_on_a_cut_log)
    await enqueue(ports, job)
    async with rig.running():
        await rig.begun(1)
        held = rig.held_jobs.get(job.channel_id)
        assert held is not None
        for text in "abc":
            held.add(Token(text, (1,)))
        rig.send(held)
        await wait_until(lambda: not held.has_unsent)
        rig.handler.complete(job)
        await wait_until(lambda: len(rig.held_jobs) == 0)
    assert tails == [2, 5]
    told = await events(ports, job.channel_id)
    assert [one.text for one in told if isinstance(one, Token)] == ["a", "b", "c"]


async def test_crash_says_nothing_of_itself_and_the_worker_lives_on(rig: Rig, ports: Ports) -> None:
    bad, good = make_job(), make_job()
    await enqueue(ports, bad, good)
    async with rig.running():
        await rig.begun(2)
        rig.handler.ends[bad.channel_id].set_exception(ZeroDivisionError("s3cr3t"))
        rig.handler.complete(good)
        await wait_until(lambda: len(rig.held_jobs) == 0)
    (*_, end) = await events(ports, bad.channel_id)
    assert isinstance(end, Failed)
    assert (end.error.code, end.error.status) == ("engine_error", 500)
    assert "s3cr3t" not in str(end)
    assert await status(ports, good) is Status.COMPLETED


async def test_engine_s_words_are_bounded_and_name_no_class_or_file(rig: Rig, ports: Ports) -> None:
    bad = make_job()
    await enqueue(ports, bad)
    async with rig.running():
        await rig.begun(1)
        error = EngineRefused("ValueError: " + "bad " * 5000 + "/usr/lib/x.py", param="stop")
        rig.handler.ends[bad.channel_id].set_exception(error)
        await wait_until(lambda: len(rig.held_jobs) == 0)
    (*_, end) = await events(ports, bad.channel_id)
    assert isinstance(end, Failed)
    assert (end.error.param, end.error.code) == ("stop", "invalid_value")
    assert end.error.message.startswith("bad bad")
    assert len(end.error.message) <= 1000


async def test_end_that_cannot_be_written_down_fails_its_job_alone(rig: Rig, ports: Ports) -> None:
    bad, good = make_job(), make_job()
    await enqueue(ports, bad, good)
    async with rig.running():
        await rig.begun(2)
        rig.handler.ends[bad.channel_id].set_result(replace(COMPLETED, usage=Usage(10**30, 1)))
        await wait_until(lambda: len(rig.held_jobs) == 1)
        rig.handler.complete(good)
        await wait_until(lambda: len(rig.held_jobs) == 0)
    assert await status(ports, bad) is Status.FAILED
    assert await status(ports, good) is Status.COMPLETED


async def test_drain_takes_nothing_new(rig: Rig, ports: Ports) -> None:
    held, late = make_job(), make_job()
    await enqueue(ports, held)
    async with rig.running() as task:
        await rig.begun(1)
        rig.stop.set()
        await enqueue(ports, late)
        await asyncio.sleep(0.05)
        assert not task.done()
        rig.handler.complete(held)
        await asyncio.wait({task})
        task.result()
    assert await status(ports, held) is Status.COMPLETED
    assert await status(ports, late) is Status.QUEUED


async def test_drain_comes_to_an_end_though_the_store_is_away(
    ports: Ports, faults: Faults, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What could not be ended or handed back comes back by its lease."""
    monkeypatch.setattr(consumer_module, "HAND_BACK_TIMEOUT_S", 0.1)
    rig = Rig(ports, faults, drain_s=0.1)
    ended, unsent, running = make_job(), make_job(), make_job()
    await enqueue(ports, ended, unsent, running)
    async with rig.running() as task:
        await rig.begun(3)
        faults.away = True
        rig.handler.complete(ended)
        held = rig.held_jobs.get(unsent.channel_id)
        assert held is not None
        held.add(Token("a", (1,)))
        rig.handler.complete(unsent)
        rig.stop.set()
        await asyncio.wait({task})
        task.result()
    assert await status(ports, ended) is Status.RUNNING
    assert await status(ports, unsent) is Status.RUNNING


async def test_nothing_of_a_refused_request_is_left_in_memory(rig: Rig, ports: Ports) -> None:
    held: list[weakref.ref[HeldJob]] = []

    async def refuse(one: HeldJob) -> Terminal:
        held.append(weakref.ref(one))
        raise EngineRefused("too long", param="prompt")

    rig.handler.handle = refuse  # type: ignore[method-assign, assignment]
    gc.collect()
    gc.disable()
    try:
        async with rig.running():
            for _ in range(3):
                job = make_job()
                await enqueue(ports, job)

                async def ended(job: Job = job) -> bool:
                    state = await ports.intake.state(job.channel_id)
                    return state is not None and state.status is Status.FAILED

                await wait_until(ended)
            await wait_until(lambda: len(rig.held_jobs) == 0)
            assert [one() for one in held] == [None] * 3
    finally:
        gc.enable()
