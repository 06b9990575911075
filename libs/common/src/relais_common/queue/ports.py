"""The queue, the log and the live bus, as the services see them.

Two adapters stand behind each port: `relais_common.queue.redis_store`, and `relais_testing.memory` for tests and
demonstrations. One contract suite holds both to the same words.

Every method may raise `StoreUnavailable`. Every method is safe to call again with the same arguments
when its answer was lost.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import KW_ONLY, dataclass, field
from datetime import date
from typing import Protocol

from relais_common.jobs.events import Terminal
from relais_common.jobs.job import (
    Accepted,
    Append,
    ChannelState,
    Idempotency,
    Job,
    Lease,
    QueueDepth,
    Status,
    StopReason,
    Take,
    Verdict,
    WorkerState,
)
from relais_common.jobs.limits import NO_QUOTA, DayUsage, Quota
from relais_common.jobs.operations import ChannelFilter, ChannelView, DeadLetter, QueueView
from relais_common.jobs.traces import TraceBatch, Tracing


@dataclass(frozen=True, slots=True)
class Reaped:
    """What one pass of the reaper did.

    Attributes:
        requeued: jobs put back because their holder's lease ran out.
        ended: jobs ended because of a deadline, a cancel, or too many failures.
    """

    requeued: int
    ended: int


class JobIntake(Protocol):
    """The front's side of the queue."""

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
    ) -> Accepted:
        """Accept a job: after this returns, the job reaches a terminal state, and with `tracing` leaves one trace.

        What the quota says it needs is taken out of its key's minute with the acceptance; its end puts what it took in
        the place of that, and on the key's account of the day.

        Args:
            watcher_id: as `watch`: who watches it from its acceptance on.

        Raises:
            QueueFull: `max_waiting` jobs of this model wait already, and one of this key has not ended.
            RateLimited: the key's requests or tokens of this minute do not allow it; nothing was taken of either.
            TokensOverLimit: it needs more tokens than the key ever has.
            TooManyInFlight: `max_inflight_per_key` jobs of this model and key have not ended.
            StorageFull: with this job, what is held of the model's jobs, waiting, running and ended, would leave less
                than half of what is held of its key free of three quarters of `max_stored_bytes`. Past the whole of it,
                no more than one job is taken at a time.
            KeyStorageFull: likewise, and the key holds more than an even share.
            TracesFull: `tracing.max_waiting` traces of this model wait for the database, or they take more than a
                quarter of `max_stored_bytes`.
            IdempotencyConflict: the idempotency key was used with another body.
        """
        ...

    async def cancel(self, channel_id: str, reason: StopReason) -> Status | None:
        """End a waiting job, or tell the holder of a running one to end it.

        Returns:
            The status after the call (`running` while its holder has yet to act), None if unknown.
        """
        ...

    async def watch(self, channel_id: str, *, lease_s: float, watcher_id: str = "") -> None:
        """Say that somebody reads this channel; matters to jobs with `on_disconnect: cancel`.

        Args:
            lease_s: after which nobody does, unless this is said again.
            watcher_id: whoever says so. While it is present (`Presence`), the end of the lease ends no job.
        """
        ...

    async def unwatch(self, channel_ids: Sequence[str], *, watcher_id: str) -> None:
        """Say that this watcher's readers of these channels, of one model, have left; their leases run out."""
        ...

    async def state(self, channel_id: str) -> ChannelState | None:
        """Where the channel stands now, or None if it never existed or is gone."""
        ...

    async def vectors(self, channel_id: str) -> bytes | None:
        """What `finish` stored: little-endian float32, one vector after the other. None if there are none."""
        ...

    async def depth(self, model: str) -> QueueDepth:
        """How many jobs of the model wait and run."""
        ...


class Presence(Protocol):
    """Which watchers still exist, even where they are too busy, or frozen, to say anything."""

    def present(
        self, model: str, watcher_id: str
    ) -> AbstractAsyncContextManager[Callable[[], Awaitable[None]]]:
        """Inside, the store sees that this watcher exists; the store sees its death by itself.

        Yields what to call inside: it raises StoreUnavailable once the store may see it no longer.
        """
        ...


@dataclass(frozen=True, slots=True)
class TakeRequest:
    """What a worker asks for with `JobSource.take`.

    Attributes:
        limit: what this worker has room for.
        idle: it has no job in its hands.
        held: jobs in its hands already.
        waited: how often in a row it was told that it had left some. At 0 it gets no more than makes its share even
            with those of the workers that lately had room, too; from 1 on also what nobody took meanwhile, bit by bit.
            None: whatever there is.
        without: keys of which it has enough: their jobs are left to other workers, or to a later take.
        offers: jobs in its hands that it can hand back, the newest first; `limit` counts for nothing then. For each job
            that is given, one of them waits again, at no charge: the newest of the key that runs most. Only where
            another key waits that runs at least two less, at the same priority or a higher one.
    """

    model: str
    limit: int
    _: KW_ONLY
    worker_id: str
    call_id: str
    lease_s: float
    idle: bool
    held: int = 0
    waited: int | None = None
    without: Collection[str] = ()
    offers: Sequence[Lease] = ()


class JobSource(Protocol):
    """The worker's side of the queue."""

    async def take(self, request: TakeRequest) -> Take:
        """Move up to `limit` waiting jobs into this worker's hands, each under a lease.

        A job that may have crashed its worker before is given alone, and only to a worker that is `idle`; while such a
        job waits, one busy worker at a time is asked to become idle. The same `call_id` gives the same jobs again.
        """
        ...

    async def start(
        self, lease: Lease, *, prompt_token_ids: Sequence[int], model_revision: str
    ) -> Verdict:
        """Note that the engine has accepted the prompt; appends `started` the first time.

        Args:
            prompt_token_ids: empty where the engine does not tell them.
        """
        ...

    async def append(self, appends: Sequence[Append]) -> list[Verdict]:
        """Add events to the logs of several channels of one model, and publish them."""
        ...

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
        """End a job: append `lines` and its last event in one step, store its answer, free what it held.

        Args:
            first_seq: number of the first of `lines`, or of the terminal event where there are none.

        Returns:
            A verdict whose `tail` below `first_seq - 1` means nothing was done: the log is short, append first.
        """
        ...

    async def renew(self, leases: Sequence[Lease], *, lease_s: float) -> list[Verdict]:
        """Hold on to jobs of one model for another `lease_s` seconds."""
        ...

    async def release(
        self, leases: Sequence[Lease], *, max_failures: int | None = None, blamed: bool = False
    ) -> None:
        """Hand jobs of one model back to the front of the queue.

        One that was asked to stop ends here instead.

        Args:
            max_failures: set where the holder has crashed, and lives to say so: then a job that gave nothing since the
                take is charged where its engine had it or where it ran alone, and ends once it was charged so often;
                others that gave nothing twice in a row are run alone the next time.
            blamed: each of these may be why the engine is stuck: it is charged whatever the engine gave of it.
        """
        ...

    async def wait_for_work(self, model: str, *, timeout_s: float) -> None:
        """Return when there may be something to take, or after `timeout_s` seconds."""
        ...

    def stop_requests(self, model: str) -> AbstractAsyncContextManager[AsyncIterator[str]]:
        """Channel ids of running jobs that were just asked to stop. A hint: `renew` tells it too."""
        ...


class Recovery(Protocol):
    """What anyone may do for jobs whose holder, client or time has gone."""

    async def reap(self, model: str, *, max_failures: int, limit: int) -> Reaped:
        """Put back jobs with expired leases; end jobs past their deadline or without watcher."""
        ...


@dataclass(frozen=True, slots=True)
class Look:
    """A channel at one moment.

    Attributes:
        state: without its text, which may be long; `JobIntake.state` has it.
        lines: encoded events, as `EventLog.read` gives them.
    """

    state: ChannelState
    lines: list[bytes]


class EventLog(Protocol):
    """Reading what happened on a channel."""

    async def read(self, channel_id: str, *, after: int, limit: int) -> list[bytes]:
        """Encoded events with numbers `after + 1`, ... in order; empty at the log's end."""
        ...

    async def look(self, channel_id: str, *, after: int, limit: int) -> Look | None:
        """`read`, of one event at least, and where the channel stands; None if it never existed or is gone."""
        ...


@dataclass(frozen=True, slots=True)
class LiveBatch:
    """Events just appended: `lines[i]` has number `first_seq + i`.

    Attributes:
        received_s: when it came to this process, by its monotonic clock; None where it was read from the log.
    """

    first_seq: int
    lines: list[bytes]
    received_s: float | None = field(default=None, compare=False)


class Subscription(Protocol):
    """One reader's view of a channel's live events."""

    async def next(self, timeout_s: float) -> LiveBatch | None:
        """The next batch, or None when `timeout_s` passed or batches were dropped: read the log."""
        ...


class LiveBus(Protocol):
    """Live events are hints: they may be lost, and the log then has them."""

    def subscribe(self, channel_id: str) -> AbstractAsyncContextManager[Subscription]:
        """Inside the context, every event appended after entry is announced or `next` says None."""
        ...

    def nudge(self) -> None:
        """Have `next` say None once to every reader of this process, so that each looks around."""
        ...


class WorkerRegistry(Protocol):
    """Which workers are alive. State only: which models exist is declared by configuration."""

    async def beat(self, state: WorkerState, *, ttl_s: float) -> None:
        """Say that this worker lives, for the next `ttl_s` seconds."""
        ...

    async def leave(self, worker_id: str) -> None:
        """Say that this worker is gone."""
        ...

    async def alive(self) -> list[WorkerState]:
        """Workers whose last beat has not run out."""
        ...


class Accounts(Protocol):
    """What keys took of a model, by the day (UTC) on which their jobs ended."""

    async def usage(
        self, model: str, *, since: date, until: date, key_id: str | None
    ) -> list[DayUsage]:
        """One entry for each day with any, both ends included, of one key or of all; by day, then key."""
        ...


class TraceOutbox(Protocol):
    """Traces of ended jobs on their way to the database. Any number of writers may share the work."""

    async def collect(
        self, model: str, *, writer: str, limit: int, claim_after_s: float
    ) -> TraceBatch:
        """Traces for this writer: what it has and did not say `written` of, what another one has had for
        `claim_after_s`, and new ones, in this order.

        One that cannot be read is set aside here.
        """
        ...

    async def written(self, model: str, entry_ids: Sequence[str]) -> None:
        """The database has these, for good."""
        ...

    async def set_aside(self, model: str, entry_ids: Sequence[str]) -> None:
        """The database will never take these: keep the last 100 apart for 7 days, out of the others' way."""
        ...


class Operations(Protocol):
    """What an operator looks at, and what he does with dead letters. No view costs more than its page."""

    async def queue(self, model: str, *, top_keys: int) -> QueueView:
        """The model's queue, with the `top_keys` longest backlogs."""
        ...

    async def channels(
        self, model: str, *, which: ChannelFilter, limit: int, latest: bool = False
    ) -> list[ChannelView]:
        """Living jobs, the soonest deadline first (where all have the same time: the oldest), or the latest first."""
        ...

    async def dead_letters(self, model: str, *, limit: int) -> list[DeadLetter]:
        """Jobs that were set aside, the newest first."""
        ...

    async def dead_letter(self, channel_id: str) -> DeadLetter | None:
        """One of them, also where it was replayed; None if it is none."""
        ...

    async def replay(
        self, channel_id: str, *, new_channel_id: str, max_waiting: int
    ) -> Accepted | None:
        """Queue a dead letter's request anew: same key and priority, a fresh deadline, a channel of its own.

        The old channel has had its last event, and it remembers the new one: a second replay changes nothing and
        answers the first one's channel. Nobody reads the new one yet, so a disconnect does not end it. It leaves
        a trace where the letter did.

        Returns:
            None if the channel is no dead letter.

        Raises:
            QueueFull: `max_waiting` jobs of this model wait already.
            Unreadable: another version of Relais made the request; it is kept.
        """
        ...

    async def drop(self, channel_id: str) -> bool:
        """Forget a dead letter's request. False if the channel is no dead letter."""
        ...
