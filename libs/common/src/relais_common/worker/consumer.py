"""The main loop of every worker: takes jobs, runs them, ends them."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import structlog

from relais_common.jobs.error_texts import MAX_LENGTH, cleaned
from relais_common.jobs.errors import (
    EngineDead,
    EngineFailed,
    EngineStalled,
    RelaisError,
    StoreUnavailable,
)
from relais_common.jobs.events import Cancelled, Expired, Failed, Terminal
from relais_common.jobs.job import Lease, StopReason, Take
from relais_common.queue.codec import encode_event
from relais_common.queue.ports import JobSource, TakeRequest
from relais_common.runtime.backoff import Backoff
from relais_common.runtime.lifecycle import cancel_and_wait, lived_timeout
from relais_common.runtime.logs import channel_context
from relais_common.worker.held import Abandon, Halt, HeldJob, HeldJobs
from relais_common.worker.metrics import JobMetrics, WorkerMetrics

log = structlog.get_logger(__name__)

BLOCK_S = 2.0
MAKE_WAY_S = 2.0
FULL_POLL_S = 0.02
FULL_ASK_S = 0.1
"""Interval at which a worker without room asks whether places should change hands."""

LEAVE_S = 0.02
"""How long a worker leaves jobs beyond its share to others. Idle workers react within milliseconds."""

HAND_BACK_TIMEOUT_S = 3.0
_FAILED = "the engine failed while it ran this request"


class Handler(Protocol):
    """The port of a kind of worker: runs one job, and reports how many more fit."""

    def room(self, held: int) -> int:
        """Return how many more answers the engine can begin now, while this worker holds `held`."""
        ...

    def enough_of(self, held: Collection[HeldJob]) -> Collection[str]:
        """Return keys of which it takes nothing more for now, since what it holds of them would keep others waiting."""
        ...

    def can_preempt(self, held: HeldJob) -> bool:
        """Return whether this job may be preempted now and continue elsewhere exactly."""
        ...

    async def handle(self, held: HeldJob) -> Terminal:
        """Run the job; publish its events; return how it ended. Cancelled when the job is stopped.

        Raises:
            RelaisError: the job fails with this error.
            EngineDead: the engine can run nothing more.
        """
        ...


@dataclass(frozen=True, slots=True)
class ConsumerSettings:
    """Settings of the main loop.

    Attributes:
        lease_s: how long a silent worker keeps a job.
        drain_s: how long a stopping worker continues.
        max_failures: crashes charged to a job before it is set aside.
    """

    queue: str
    worker_id: str
    lease_s: float
    drain_s: float
    max_failures: int


class Consumer:
    """Takes a job only when the engine has room for it; everything else waits in Redis."""

    def __init__(
        self,
        source: JobSource,
        handler: Handler,
        held_jobs: HeldJobs,
        settings: ConsumerSettings,
        metrics: WorkerMetrics,
    ) -> None:
        self._source = source
        self._handler = handler
        self._held_jobs = held_jobs
        self._settings = settings
        self._metrics = metrics
        self._tasks: dict[asyncio.Task[None], HeldJob] = {}
        self._call_id = secrets.token_hex(8)
        self._ask_at_s = 0.0
        self._is_waited_for = False
        """Whether its last take told others that it has room. Until it takes that back, jobs are left to it."""

    async def run(self, stop: asyncio.Event) -> None:
        """Work until `stop`, then drain: finish what fits in `drain_s`, hand the rest back.

        Raises:
            ExceptionGroup: of `EngineDead`, once everything was handed back.
        """
        crashed = True
        try:
            async with asyncio.TaskGroup() as group:
                await self._consume(group, stop)
                await self._leave(group)
                await self._drain()
            crashed = False
        finally:
            await self._hand_back_all(crashed=crashed)

    async def _consume(self, group: asyncio.TaskGroup, stop: asyncio.Event) -> None:
        stopping = group.create_task(stop.wait())
        backoff = Backoff()
        waited = 0
        while not stop.is_set():
            room, offers = self._room(), []
            if room > 0:
                # This take brings what waits, as far as there is room.
                self._held_jobs.lines_asked = False
            elif not self._is_waited_for:
                await self._wait_for_room(stopping)
                offers = self._offers()
                if not offers or stop.is_set():
                    continue
            enough_of = self._handler.enough_of(self._held_jobs.hands.all())
            try:
                take = await self._take(group, room, waited, enough_of, offers)
                if room <= 0:
                    continue
                left, at_home = take.left, take.left_at_home
                idle = not (take.jobs or take.make_way)
                # Do not keep a reference while waiting: these jobs may end before the next one comes.
                del take
                waited = waited + 1 if left else 0
                if left:
                    await asyncio.wait({stopping}, timeout=LEAVE_S)
                elif at_home:
                    await self._wait_for_work(stopping, LEAVE_S)
                elif idle and enough_of:
                    # Jobs of a key that had enough may already wait; other workers take the wakeup for them.
                    await self._wait_for_room(stopping)
                elif idle:
                    await self._wait_for_work(stopping, BLOCK_S)
                backoff.reset()
            except StoreUnavailable as error:
                log.warning("take_failed", error=str(error))
                # It may have brought jobs: the call is repeated also where other queues have had the room meanwhile.
                self._is_waited_for = True
                await backoff.pause()

    async def _leave(self, group: asyncio.TaskGroup) -> None:
        """Have nothing left to this worker any more. Jobs of a take whose answer was lost may come."""
        try:
            async with lived_timeout(HAND_BACK_TIMEOUT_S):
                while (await self._take(group, 0, 0, (), (), idle=True)).jobs:
                    pass
        except (StoreUnavailable, TimeoutError) as error:
            log.warning("take_failed", error=str(error))

    def _room(self) -> int:
        return self._held_jobs.hands.room(self._held_jobs, self._handler.room)

    def _offers(self) -> list[Lease]:
        """Return jobs that may be preempted, newest first; periodically or when asked, while there is no room."""
        now_s, hands = time.monotonic(), self._held_jobs.hands
        is_time = now_s >= self._ask_at_s or self._held_jobs.lines_asked
        self._held_jobs.lines_asked = False
        if not is_time or hands.suspect or hands.makes_way:
            return []
        self._ask_at_s = now_s + FULL_ASK_S
        if self._room() > 0:
            return []
        held = reversed(self._held_jobs.all())
        return [one.lease for one in held if not one.is_ending and self._handler.can_preempt(one)]

    async def _take(
        self,
        group: asyncio.TaskGroup,
        room: int,
        waited: int,
        without: Collection[str],
        offers: Sequence[Lease],
        *,
        idle: bool | None = None,
    ) -> Take:
        hands, room = self._held_jobs.hands, max(room, 0)
        held_before = hands.places
        request = TakeRequest(
            self._settings.queue,
            room,
            worker_id=self._settings.worker_id,
            call_id=self._call_id,
            lease_s=self._settings.lease_s,
            idle=held_before == 0 if idle is None else idle,
            held=held_before,
            waited=waited,
            without=without,
            offers=offers,
        )
        with hands.taking(self._held_jobs, room) as came:
            take = await self._source.take(request)
            answers = sum(one.job.answers for one in take.jobs)
            came(answers)
            self._note_taken(take, answers, room)
            await self._let_go_of(take.preempted)
            for one in take.jobs:
                held = HeldJob(one, JobMetrics(self._metrics, one))
                self._held_jobs.add(held)
                task = group.create_task(self._execute(held))
                self._tasks[task] = held
                task.add_done_callback(self._tasks.pop)
        return take

    def _note_taken(self, take: Take, answers: int, room: int) -> None:
        # Repeat the same call until it is answered, because it may have taken effect.
        self._call_id = secrets.token_hex(8)
        self._is_waited_for = not take.make_way and answers < room
        # Ask again from time to time, because another worker may become idle sooner.
        way_s = MAKE_WAY_S if take.make_way else 0.0
        self._held_jobs.hands.make_way(self._held_jobs, way_s)

    async def _let_go_of(self, channel_ids: Sequence[str]) -> None:
        """Stop these jobs, so that others get their places."""
        gone = [task for task, held in self._tasks.items() if held.lease.channel_id in channel_ids]
        for task in gone:
            self._tasks[task].halt(Abandon.PREEMPTED)
        if gone:
            await asyncio.wait(gone)

    async def _wait_for_room(self, stopping: asyncio.Task[bool]) -> None:
        # A place becomes free at a job's end, which sets the event, or inside the engine, which does not.
        if self._held_jobs.lines_asked:
            return
        self._held_jobs.changed.clear()
        freed = asyncio.create_task(self._held_jobs.changed.wait())
        try:
            await asyncio.wait(
                {freed, stopping}, timeout=FULL_POLL_S, return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            await cancel_and_wait(freed)

    async def _wait_for_work(self, stopping: asyncio.Task[bool], timeout_s: float) -> None:
        waiting = asyncio.create_task(
            self._source.wait_for_work(
                self._settings.queue, worker_id=self._settings.worker_id, timeout_s=timeout_s
            )
        )
        try:
            await asyncio.wait({waiting, stopping}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await cancel_and_wait(waiting)

    async def _execute(self, held: HeldJob) -> None:
        with channel_context(held.lease.channel_id):
            work = asyncio.create_task(self._handler.handle(held))
            try:
                terminal = await self._outcome(held, work)
                # Before the engine has released it, which may take long: the client does not wait for that.
                work.cancel()
                await self._let_go(held, terminal)
            except asyncio.CancelledError:
                # Held jobs must be handed back whatever the engine does.
                await _end(work, timeout_s=HAND_BACK_TIMEOUT_S)
                raise
            finally:
                work.cancel()
            await _end(work)
            # Not in a finally: when this worker dies, `run` hands its jobs back.
            self._held_jobs.remove(held)

    async def _outcome(self, held: HeldJob, work: asyncio.Task[Terminal]) -> Terminal | None:
        """Return how the job ended here, or None if it did not."""
        timer = asyncio.get_running_loop().call_later(
            max(0.0, held.taken.deadline_in_s), held.halt, StopReason.DEADLINE
        )
        both: set[asyncio.Future[Any]] = {work, held.halted}
        try:
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                terminal = work.result()
                # A result that cannot be encoded fails this job here, rather than the worker at its end.
                encode_event(terminal)
                return terminal
            return _stopped(held.halted.result())
        except EngineDead:
            raise
        except RelaisError as error:
            # An engine's own message is meant for its operator.
            info = replace(error.info, message=cleaned(error.message) or _FAILED)
            log.info("job_failed", code=info.code, error=error.message[:MAX_LENGTH])
            return Failed(info)
        except Exception:
            log.exception("job_crashed")
            return Failed(EngineFailed(_FAILED).info)
        finally:
            timer.cancel()
            # A task holds its error, whose traceback holds this frame: together they would keep the whole request in
            # memory until a full garbage collection.
            del work, both

    async def _let_go(self, held: HeldJob, terminal: Terminal | None) -> None:
        try:
            if terminal is not None:
                await self._finish(held, terminal)
            elif held.halted.result() is Abandon.HAND_BACK:
                await self._release([held])
            elif held.halted.result() is Abandon.PREEMPTED:
                log.info("job_preempted", fence=held.lease.fence)
            else:
                log.warning("lease_lost", fence=held.lease.fence)
        except StoreUnavailable:
            log.warning("hand_back_failed")

    async def _finish(self, held: HeldJob, terminal: Terminal) -> None:
        backoff = Backoff()
        while True:
            first_seq, lines = held.ending()
            try:
                verdict = await self._source.finish(
                    held.lease,
                    first_seq=first_seq,
                    lines=lines,
                    terminal=terminal,
                    text="".join(held.text),
                    vectors=held.vectors,
                )
            except StoreUnavailable:
                await backoff.pause()
                continue
            if not verdict.held:
                held.metrics.lost()
                log.warning("lease_lost", fence=held.lease.fence)
                return
            if verdict.tail >= held.next_seq:
                held.metrics.finished(terminal, with_tokens=bool(lines))
                log.info("job_ended", status=type(terminal).__name__.lower())
                return
            held.heed(verdict)

    async def _drain(self) -> None:
        if self._tasks:
            log.info("worker_draining", jobs=len(self._tasks))
            await asyncio.wait(self._tasks, timeout=self._settings.drain_s)
        for held in self._held_jobs.all():
            held.halt(Abandon.HAND_BACK)
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=HAND_BACK_TIMEOUT_S)
        # While Redis is unavailable an end cannot be written; the lease brings the job back.
        for task in list(self._tasks):
            task.cancel()

    async def _hand_back_all(self, *, crashed: bool) -> None:
        if not len(self._held_jobs):
            return
        try:
            async with lived_timeout(HAND_BACK_TIMEOUT_S):
                handed_back = await self._hand_back(crashed=crashed)
            log.warning("jobs_handed_back", jobs=handed_back)
        except (StoreUnavailable, TimeoutError):
            log.exception("hand_back_failed", jobs=len(self._held_jobs))

    async def _hand_back(self, *, crashed: bool) -> int:
        """Hand back all jobs and return their number. If the engine was stuck, only the suspects are charged."""
        held_jobs, suspicion = self._held_jobs.all(), self._held_jobs.suspicion
        max_failures = self._settings.max_failures
        if suspicion is None:
            await self._release(held_jobs, max_failures=max_failures if crashed else None)
            return len(held_jobs)
        suspects = [held for held in held_jobs if held.lease.channel_id in suspicion]
        await self._release([held for held in held_jobs if held not in suspects])
        if len(suspicion) == 1:
            error = EngineStalled("the engine made no step while it ran this request")
            for held in suspects:
                await self._finish(held, Failed(error.info))
        else:
            await self._release(suspects, max_failures=max_failures, blamed=True)
        return len(held_jobs)

    async def _release(
        self, held_jobs: Sequence[HeldJob], *, max_failures: int | None = None, blamed: bool = False
    ) -> None:
        leases = [held.lease for held in held_jobs]
        await self._source.release(leases, max_failures=max_failures, blamed=blamed)
        for held in held_jobs:
            held.metrics.handed_back()


async def _end(work: asyncio.Task[Terminal], timeout_s: float | None = None) -> None:
    """Stop a job's work. Its errors are ignored unless the engine has died."""
    work.cancel()
    await asyncio.wait({work}, timeout=timeout_s)
    if not work.done():
        log.warning("job_cancel_timed_out")
    elif not work.cancelled() and isinstance(error := work.exception(), EngineDead):
        raise error


def _stopped(why: Halt) -> Terminal | None:
    match why:
        case StopReason.DEADLINE:
            return Expired()
        case StopReason.CLIENT | StopReason.DISCONNECT:
            return Cancelled(why)
    return None
