"""`Inspector` over plain data in this process."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

from relais_common.jobs.channels import channel_queue
from relais_common.jobs.events import Failed
from relais_common.jobs.inspection import (
    ChannelFilter,
    ChannelView,
    DeadLetter,
    KeyBacklog,
    QueueView,
)
from relais_common.jobs.job import Accepted, Job, OnDisconnect, Priority, Status
from relais_common.jobs.traces import Tracing
from relais_common.queue import codec
from relais_testing.memory.model import MemoryModel, Record


class Accept(Protocol):
    """Describes the acceptance of a job."""

    def __call__(
        self, model: MemoryModel, record: Record, *, duplicate: bool = False
    ) -> Accepted: ...


class Admit(Protocol):
    """Queues a job, as `enqueue` does."""

    def __call__(
        self, model: MemoryModel, job: Job, *, tracing: Tracing | None = None
    ) -> Accepted: ...


class MemoryInspector:
    """Inspects queues, replays and drops dead letters.

    Args:
        accepted: describes a job that is there.
    """

    def __init__(
        self,
        model_of: Callable[[str], MemoryModel],
        admit: Admit,
        accepted: Accept,
        clock: Callable[[], float],
    ) -> None:
        self._model_of = model_of
        self._admit = admit
        self._accepted = accepted
        self._clock = clock
        self._dropped: set[str] = set()

    async def queue(self, model: str, *, top_keys: int) -> QueueView:
        state = self._model_of(model)
        waiting = [one for one in state.records.values() if one.status is Status.QUEUED]
        by_priority = Counter(one.job.priority for one in waiting)
        by_key = Counter(one.job.key_id for one in waiting)
        longest = sorted(by_key.items(), key=lambda item: (-item[1], item[0]))[:top_keys]
        now = self._clock()
        return QueueView(
            model=model,
            waiting=len(waiting),
            waiting_by_priority={priority.value: by_priority[priority] for priority in Priority},
            waiting_by_key=tuple(KeyBacklog(*item) for item in longest),
            oldest_waiting_s=max((now - one.accepted_at_s for one in waiting), default=None),
            suspects=len(state.suspects),
            running=len(state.inflight),
            dead_letters=len(state.dead),
            stored_bytes=state.stored_bytes,
            waiting_traces=len(state.traces),
            oldest_trace_s=state.traces.oldest_s,
            service_s=state.service_s,
            estimated_wait_s=state.estimated_wait_s(len(waiting) + 1),
        )

    async def channels(
        self, model: str, *, which: ChannelFilter, limit: int, latest: bool = False
    ) -> list[ChannelView]:
        state = self._model_of(model)
        records = [
            one
            for one in state.records.values()
            if not one.status.is_terminal and _matches(one, which)
        ]
        records.sort(key=lambda one: one.deadline_at_s, reverse=latest)
        return [self._channel(one) for one in records[:limit]]

    async def dead_letters(self, model: str, *, limit: int) -> list[DeadLetter]:
        state = self._model_of(model)
        return [self._letter(state.records[one]) for one in list(state.dead)[:limit]]

    async def dead_letter(self, channel_id: str) -> DeadLetter | None:
        state = self._model_of(channel_queue(channel_id))
        record = state.records.get(channel_id)
        if record is None or not (channel_id in state.dead or record.replayed_as):
            return None
        return self._letter(record)

    async def replay(
        self, channel_id: str, *, new_channel_id: str, max_waiting: int
    ) -> Accepted | None:
        state = self._model_of(channel_queue(channel_id))
        record = state.records.get(channel_id)
        if record is not None and record.replayed_as is not None:
            return self._accepted(state, state.records[record.replayed_as], duplicate=True)
        if record is None or channel_id not in state.dead:
            return None
        state.refuse_where_full(record.job.model, max_waiting, unfinished=1)
        state.dead.remove(channel_id)
        record.replayed_as = new_channel_id
        job = replace(record.job, channel_id=new_channel_id, on_disconnect=OnDisconnect.CONTINUE)
        return self._admit(state, job, tracing=record.tracing)

    async def drop(self, channel_id: str) -> bool:
        state = self._model_of(channel_queue(channel_id))
        if channel_id in state.dead:
            state.dead.remove(channel_id)
            self._dropped.add(channel_id)
        return channel_id in self._dropped

    def _channel(self, record: Record) -> ChannelView:
        now, running = self._clock(), record.status is Status.RUNNING
        return ChannelView(
            channel_id=record.job.channel_id,
            key_id=record.job.key_id,
            priority=record.job.priority,
            operation=record.job.operation,
            status=record.status,
            age_s=now - record.accepted_at_s,
            deadline_in_s=record.deadline_at_s - now,
            running_s=now - record.hands.taken_at_s if running else None,
            worker=record.worker if running else None,
            takes=record.fence,
            failures=record.failures,
            tail=len(record.log),
            stop=record.stop,
        )

    def _letter(self, record: Record) -> DeadLetter:
        assert record.outcome is not None
        assert record.finished_at_s is not None
        end = codec.decode_event(record.outcome)
        assert isinstance(end, Failed), "a dead letter has failed"
        channel_id = record.job.channel_id
        replayed_as = record.replayed_as
        return DeadLetter(
            channel_id=channel_id,
            key_id=record.job.key_id,
            priority=record.job.priority,
            operation=record.job.operation,
            accepted_at_s=record.accepted_at_s,
            failed_at_s=record.finished_at_s,
            takes=record.fence,
            failures=record.failures,
            worker=record.worker,
            code=end.error.code,
            message=end.error.message,
            request_bytes=0 if replayed_as else len(codec.encode_job(record.job)),
            replayed_as=replayed_as,
        )


def _matches(record: Record, which: ChannelFilter) -> bool:
    match which:
        case ChannelFilter.QUEUED:
            return record.status is Status.QUEUED
        case ChannelFilter.RUNNING:
            return record.status is Status.RUNNING
        case ChannelFilter.SUSPECT:
            return record.status is Status.QUEUED and record.failures > 0
        case ChannelFilter.ALL:
            return True
