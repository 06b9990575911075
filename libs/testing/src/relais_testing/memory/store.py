"""All ports over plain data in this process."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import date

from relais_common.jobs.channels import channel_queue
from relais_common.jobs.errors import IdempotencyConflict, TooManyInFlight
from relais_common.jobs.events import STATUS_OF, Cancelled, Queued, Started, Terminal, counted_usage
from relais_common.jobs.job import (
    Accepted,
    Append,
    ChannelState,
    Idempotency,
    Interrupted,
    Job,
    Lease,
    Priority,
    QueueDepth,
    Status,
    StopReason,
    Take,
    TakenJob,
    Verdict,
    WorkerState,
)
from relais_common.jobs.limits import NO_QUOTA, DayUsage, Quota
from relais_common.jobs.records import ApiRecord
from relais_common.jobs.traces import TraceBatch, Tracing
from relais_common.queue import codec
from relais_common.queue.fanout import Fanout
from relais_common.queue.ports import ANY_LINE, Look, Reaped, Subscription, TakeRequest
from relais_common.runtime.lifecycle import cancel_and_wait
from relais_testing.memory import taking
from relais_testing.memory.inspector import MemoryInspector
from relais_testing.memory.model import LOOK_AGAIN_S, MemoryModel, Record, stopped


class MemoryStore:
    """Every port except `inspector`. `clock` returns seconds; a test may set it."""

    def __init__(
        self, clock: Callable[[], float] = time.time, *, watch_grace_s: float = 30.0
    ) -> None:
        self._clock = clock
        self._watch_grace_s = watch_grace_s
        self._models: dict[str, MemoryModel] = {}
        self._fanout = Fanout()
        self._bells: dict[tuple[str, str], asyncio.Event] = {}
        self._listeners: dict[str, set[asyncio.Queue[str]]] = {}
        self._workers: dict[str, tuple[float, WorkerState]] = {}
        self._shards: dict[str, set[int]] = {}
        self.inspector = MemoryInspector(self._model, self._admit, self._accepted, clock)

    def _model(self, model: str) -> MemoryModel:
        if model not in self._models:
            self._models[model] = MemoryModel(
                self._clock, self._fanout, lambda channel_id: self._announce(model, channel_id)
            )
        return self._models[model]

    def _of(self, channel_id: str) -> tuple[MemoryModel, Record | None]:
        model = self._model(channel_queue(channel_id))
        return model, model.records.get(channel_id)

    async def let_deadline_pass(self, channel_id: str) -> None:
        """Move the deadline of a job that has not ended into the past."""
        model, record = self._of(channel_id)
        assert record is not None
        assert channel_id in model.deadlines
        model.deadlines[channel_id] = record.deadline_at_s = 1.0

    def _bell(self, model: str, worker_id: str = "") -> asyncio.Event:
        return self._bells.setdefault((model, worker_id), asyncio.Event())

    def _announce(self, model: str, channel_id: str) -> None:
        for listener in self._listeners.get(model, ()):
            listener.put_nowait(channel_id)

    # JobIntake

    async def enqueue(
        self,
        job: Job,
        *,
        max_waiting: int,
        max_inflight_per_key: int | None = None,
        quota: Quota = NO_QUOTA,
        max_stored_bytes: int | None = None,
        idempotency: Idempotency | None = None,
        tracing: Tracing | None = None,
        watcher_id: str = "",
        record: ApiRecord | None = None,
        shards: int = 1,
    ) -> Accepted:
        model = self._model(channel_queue(job.channel_id))
        if job.channel_id in model.records:
            return self._accepted(model, model.records[job.channel_id], duplicate=True)
        if idempotency is not None:
            first = model.idempotency.get((job.key_id, idempotency.key_hash))
            if first is not None:
                channel_id, body_hash = first
                if body_hash != idempotency.body_hash:
                    raise IdempotencyConflict(
                        "this Idempotency-Key was used with another body", param="Idempotency-Key"
                    )
                return self._accepted(model, model.records[channel_id], duplicate=True)
        unfinished = model.unfinished(job)
        model.refuse_where_full(job.model, max_waiting, unfinished)
        if max_inflight_per_key is not None and unfinished + job.answers > max_inflight_per_key:
            raise TooManyInFlight(
                f"{unfinished} requests of this key to {job.model!r} have not ended",
                retry_after_s=model.estimated_wait_s(1) or 1.0,
            )
        model.max_stored_bytes = max_stored_bytes
        model.refuse_where_crowded(job)
        model.refuse_where_traces_wait(job.model, tracing)
        now = model.accounts.reserve(job, quota)
        home = model.home_to_wake(job)
        accepted = self._admit(model, job, quota, tracing=tracing, home=home, shards=shards)
        model.records[job.channel_id].api_record = record
        if job.channel_id in model.watched:
            model.records[job.channel_id].watchers.add(watcher_id)
        if idempotency is not None:
            entry = (job.channel_id, idempotency.body_hash)
            model.idempotency[job.key_id, idempotency.key_hash] = entry
        return replace(accepted, buckets=now if quota.limits_anything else None)

    def _admit(
        self,
        model: MemoryModel,
        job: Job,
        quota: Quota = NO_QUOTA,
        *,
        tracing: Tracing | None = None,
        home: str | None = None,
        shards: int = 1,
    ) -> Accepted:
        record = model.add(job, self._watch_grace_s, quota, tracing)
        record.shards = shards
        accepted = self._accepted(model, record)
        queued = Queued(accepted.queue_position, accepted.estimated_wait_s)
        model.append(record, 1, [codec.encode_event(queued)])
        queue = channel_queue(job.channel_id)
        bell = self._bell(queue, home or "")
        if bell.is_set():
            # A home that has not heard the ring before may be busy, or gone.
            self._bell(queue).set()
        bell.set()
        if job.priority is not Priority.BATCH and model.turns[Priority.BATCH]:
            self._announce(queue, ANY_LINE)
        return accepted

    def _accepted(self, model: MemoryModel, record: Record, *, duplicate: bool = False) -> Accepted:
        position = model.position(record)
        return Accepted(
            channel_id=record.job.channel_id,
            status=record.status,
            queue_position=position * record.shards,
            estimated_wait_s=model.estimated_wait_s(position),
            duplicate=duplicate,
        )

    async def cancel(self, channel_id: str, reason: StopReason) -> Status | None:
        model, record = self._of(channel_id)
        if record is None:
            return None
        if record.status is Status.QUEUED:
            line = codec.encode_event(Cancelled(reason))
            model.conclude(record, Status.CANCELLED, [line], "")
        elif record.status is Status.RUNNING:
            model.ask_to_stop(record, reason)
        return record.status

    async def watch(self, channel_id: str, *, lease_s: float, watcher_id: str = "") -> None:
        model, record = self._of(channel_id)
        if record is not None and channel_id in model.watched:
            model.watched[channel_id] = self._clock() + lease_s
            record.watchers.add(watcher_id)

    async def unwatch(self, channel_ids: Sequence[str], *, watcher_id: str) -> None:
        for channel_id in channel_ids:
            _, record = self._of(channel_id)
            if record is not None:
                record.watchers.discard(watcher_id)

    async def state(self, channel_id: str) -> ChannelState | None:
        model, record = self._of(channel_id)
        if record is None or record.forgotten:
            return None
        position = model.position(record)
        return ChannelState(
            channel_id=channel_id,
            model=record.job.model,
            key_id=record.job.key_id,
            operation=record.job.operation,
            status=record.status,
            on_disconnect=record.job.on_disconnect,
            queue_position=position * record.shards,
            estimated_wait_s=model.estimated_wait_s(position),
            tail=len(record.log),
            accepted_at_s=record.accepted_at_s,
            started_at_s=record.started_at_s,
            finished_at_s=record.finished_at_s,
            text=record.text,
            outcome=record.outcome,
            replayed_as=record.replayed_as,
        )

    async def vectors(self, channel_id: str) -> bytes | None:
        _, record = self._of(channel_id)
        return None if record is None else record.vectors

    async def record(self, channel_id: str) -> ApiRecord | None:
        _, record = self._of(channel_id)
        return None if record is None else record.api_record

    async def forget(self, channel_id: str) -> None:
        model, record = self._of(channel_id)
        if record is not None:
            record.api_record, record.forgotten = None, True
            model.forget_names(channel_id)
            if record.status.is_terminal:
                model.forget(channel_id)

    async def knows(self, queue: str, key_id: str, key_hash: str) -> bool:
        return (key_id, key_hash) in self._model(queue).idempotency

    async def depth(self, model: str) -> QueueDepth:
        state = self._model(model)
        return QueueDepth(waiting=state.waiting, running=len(state.inflight))

    # Accounts

    async def usage(
        self, model: str, *, since: date, until: date, key_id: str | None
    ) -> list[DayUsage]:
        return self._model(model).accounts.usage(model, since, until, key_id)

    # TraceOutbox

    async def collect(
        self, model: str, *, writer: str, limit: int, claim_after_s: float
    ) -> TraceBatch:
        return self._model(model).traces.collect(writer, limit, claim_after_s)

    async def written(self, model: str, entry_ids: Sequence[str]) -> None:
        self._model(model).traces.forget(list(entry_ids))

    async def set_aside(self, model: str, entry_ids: Sequence[str]) -> None:
        self._model(model).traces.set_aside(list(entry_ids))

    # Presence

    @asynccontextmanager
    async def present(
        self, model: str, watcher_id: str
    ) -> AsyncIterator[Callable[[], Awaitable[None]]]:
        present = self._model(model).present
        present[watcher_id] += 1
        try:
            yield asyncio.get_running_loop().create_future
        finally:
            present[watcher_id] -= 1

    # JobSource

    async def take(self, request: TakeRequest) -> Take:
        state, bell = self._model(request.model), self._bell(request.model)
        handed = taking.repeated(state, request)
        if handed is None and request.offers:
            handed = taking.by_preemption(state, request)
        elif handed is None:
            handed = taking.in_turn(state, request)
            if handed.more:
                bell.set()
            else:
                bell.clear()
                self._bell(request.model, request.worker_id).clear()
            for home in handed.homes:
                self._bell(request.model, home).set()
        jobs = tuple(self._taken(state, record) for record in handed.records)
        return Take(jobs, handed.make_way, handed.left, handed.left_at_home, handed.preempted)

    def _taken(self, model: MemoryModel, record: Record) -> TakenJob:
        return TakenJob(
            job=record.job,
            lease=Lease(record.job.channel_id, record.fence),
            tail=len(record.log),
            failures=record.failures,
            suspect=record.suspect,
            preempted=record.preempted,
            deadline_in_s=model.seconds_left(record),
            queued_s=model.seconds_queued(record),
            interrupted=Interrupted(record.prompts, record.model_revision)
            if record.hands.first_token_at_s is not None and record.started_at_s is not None
            else None,
        )

    async def start(
        self, lease: Lease, *, prompts: Sequence[Sequence[int]], model_revision: str
    ) -> Verdict:
        model, record = self._of(lease.channel_id)
        verdict = model.verdict(lease.channel_id, lease.fence)
        if record is None or not verdict.held:
            return verdict
        record.engaged = True
        record.prompts = tuple(map(tuple, prompts))
        record.model_revision = model_revision
        if record.started_at_s is None:
            record.started_at_s = self._clock()
            line = codec.encode_event(Started.with_prompts(prompts))
            model.append(record, len(record.log) + 1, [line])
        return model.verdict(lease.channel_id, lease.fence)

    async def append(self, appends: Sequence[Append]) -> list[Verdict]:
        return [self._append(item) for item in appends]

    def _append(self, item: Append) -> Verdict:
        channel_id, fence = item.lease.channel_id, item.lease.fence
        model, record = self._of(channel_id)
        verdict = model.verdict(channel_id, fence)
        if record is None or not verdict.held or item.first_seq > verdict.tail + 1:
            return verdict
        fresh = list(item.lines[verdict.tail + 1 - item.first_seq :])
        if fresh:
            model.append(record, verdict.tail + 1, fresh)
            if item.emits:
                record.hands.note_token(self._clock())
        return model.verdict(channel_id, fence)

    async def finish(
        self,
        lease: Lease,
        *,
        first_seq: int,
        lines: Sequence[bytes] = (),
        terminal: Terminal,
        text: str,
        vectors: bytes = b"",
    ) -> Verdict:
        model, record = self._of(lease.channel_id)
        if record is not None and record.ended_by == lease.fence:
            return Verdict(held=True, tail=len(record.log))
        verdict = model.verdict(lease.channel_id, lease.fence)
        if record is None or not verdict.held or verdict.tail < first_seq - 1:
            return verdict
        record.ended_by = lease.fence
        record.vectors = vectors or None
        fresh = [*lines, codec.encode_event(terminal)]
        skip = min(verdict.tail + 1 - first_seq, len(fresh) - 1)
        model.conclude(
            record, STATUS_OF[type(terminal)], fresh[skip:], text, counted_usage(terminal)
        )
        return Verdict(held=True, tail=len(record.log))

    async def renew(self, leases: Sequence[Lease], *, lease_s: float) -> list[Verdict]:
        verdicts = []
        for lease in leases:
            model, _ = self._of(lease.channel_id)
            verdict = model.verdict(lease.channel_id, lease.fence)
            if verdict.held:
                model.inflight[lease.channel_id] = self._clock() + lease_s
            verdicts.append(verdict)
        return verdicts

    async def release(
        self, leases: Sequence[Lease], *, max_failures: int | None = None, blamed: bool = False
    ) -> None:
        for lease in leases:
            model, record = self._of(lease.channel_id)
            if record is None or not model.verdict(lease.channel_id, lease.fence).held:
                continue
            if model.let_go(record, max_failures=max_failures, blamed=blamed):
                self._bell(channel_queue(lease.channel_id)).set()

    async def wait_for_work(self, model: str, *, worker_id: str, timeout_s: float) -> None:
        bells = (self._bell(model, worker_id), self._bell(model))
        waits = [asyncio.create_task(bell.wait()) for bell in bells]
        try:
            await asyncio.wait(waits, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                await cancel_and_wait(wait)
        for bell in bells:
            bell.clear()

    @asynccontextmanager
    async def stop_requests(self, model: str) -> AsyncIterator[AsyncIterator[str]]:
        queue: asyncio.Queue[str] = asyncio.Queue()
        listeners = self._listeners.setdefault(model, set())
        listeners.add(queue)

        async def ids() -> AsyncIterator[str]:
            while True:
                yield await queue.get()

        try:
            yield ids()
        finally:
            listeners.discard(queue)

    # Recovery

    async def reap(self, model: str, *, max_failures: int, limit: int) -> Reaped:
        state = self._model(model)
        requeued = ended = 0
        for ledger, reason in (
            (state.watched, StopReason.DISCONNECT),
            (state.deadlines, StopReason.DEADLINE),
        ):
            for record in state.due(ledger, limit):
                if ledger is state.watched and state.may_be_read(record):
                    ledger[record.job.channel_id] = self._clock() + LOOK_AGAIN_S
                    continue
                del ledger[record.job.channel_id]
                if record.status is Status.QUEUED:
                    state.conclude(record, *stopped(reason), "")
                    ended += 1
                elif record.status is Status.RUNNING:
                    state.ask_to_stop(record, reason)
        for record in state.due(state.inflight, limit):
            heard_at_s = state.inflight[record.job.channel_id] - record.hands.lease_s
            if state.let_go(record, max_failures=max_failures, heard_at_s=heard_at_s):
                requeued += 1
            else:
                ended += 1
        if requeued:
            self._bell(model).set()
        return Reaped(requeued=requeued, ended=ended)

    # EventLog and LiveBus

    async def read(self, channel_id: str, *, after: int, limit: int) -> list[bytes]:
        _, record = self._of(channel_id)
        return [] if record is None else record.log[after : after + limit]

    async def look(self, channel_id: str, *, after: int, limit: int) -> Look | None:
        state = await self.state(channel_id)
        if state is None:
            return None
        lines = await self.read(channel_id, after=after, limit=limit)
        return Look(replace(state, text=None), lines)

    @asynccontextmanager
    async def subscribe(self, channel_id: str) -> AsyncIterator[Subscription]:
        subscription = self._fanout.join(channel_id)
        try:
            yield subscription
        finally:
            self._fanout.leave(channel_id, subscription)

    def nudge(self) -> None:
        self._fanout.drop_all()

    # WorkerRegistry

    async def beat(self, state: WorkerState, *, ttl_s: float) -> None:
        self._workers[state.worker_id] = (self._clock() + ttl_s, state)

    async def leave(self, worker_id: str) -> None:
        self._workers.pop(worker_id, None)

    async def alive(self) -> list[WorkerState]:
        now = self._clock()
        return [state for end, state in self._workers.values() if end > now]

    async def note_shards(self, model: str, shards: int) -> None:
        self._shards.setdefault(model, set()).add(shards)

    async def shards(self, model: str) -> frozenset[int]:
        return frozenset(self._shards.get(model, ()))
