"""The ports of the store: the queue, the log and the live bus, as the services see them.

Each port has two adapters: `relais_common.queue.redis_store`, and `relais_testing.memory` for tests and
demonstrations. One contract suite checks both for the same behaviour.

Every method may raise `StoreUnavailable`. Every method is safe to call again with the same arguments
when its answer was lost.

A method that is given a model takes the name of any of its queues (`queue_of`) and is about that one alone;
`relais_common.queue.merged` has the views of all queues of a model. A worker's registry is about models.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import KW_ONLY, dataclass, field
from datetime import date
from typing import Protocol

from relais_common.jobs.events import Terminal
from relais_common.jobs.inspection import ChannelFilter, ChannelView, DeadLetter, QueueView
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
from relais_common.jobs.records import ApiRecord
from relais_common.jobs.traces import TraceBatch, Tracing


@dataclass(frozen=True, slots=True)
class Reaped:
    """The result of one pass of the reaper.

    Attributes:
        requeued: jobs put back because their holder's lease ran out.
        ended: jobs ended because of a deadline, a cancel, or too many failures.
    """

    requeued: int
    ended: int


class JobIntake(Protocol):
    """The orchestrator's side of the queue."""

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
        """Accept a job: after this returns, the job reaches a terminal state, and with `tracing` leaves one trace.

        Acceptance takes the quota's tokens from the key's minute. The job's end replaces them by what the job used,
        and adds that to the key's account of the day.

        Args:
            watcher_id: as in `watch`: the watcher from acceptance on.
            record: what the request's API keeps with it. A stored one is handed over with the trace: without `tracing`,
                nothing is stored.
            shards: over how many queues its model is spread. Positions are told as so many times those in this queue.

        Raises:
            QueueFull: `max_waiting` jobs of this model wait already, and the key has an unfinished job.
            RateLimited: the key's requests or tokens of this minute are used up; nothing was taken.
            TokensOverLimit: it needs more tokens than the key has per minute.
            TooManyInFlight: `max_inflight_per_key` jobs of this model and key are unfinished.
            StorageFull: with this job, what is held of the model's jobs, waiting, running and ended, would leave less
                than half of what is held of its key free of three quarters of `max_stored_bytes`. Past the whole of it,
                no more than one job is taken at a time.
            KeyStorageFull: as `StorageFull`, and the key holds more than an even share.
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
        """Report that somebody reads this channel; relevant for jobs with `on_disconnect: cancel`.

        Args:
            lease_s: how long this holds unless it is repeated.
            watcher_id: the reporting watcher. While it is present (`Presence`), an expired lease ends no job.
        """
        ...

    async def unwatch(self, channel_ids: Sequence[str], *, watcher_id: str) -> None:
        """Report that this watcher's readers of these channels, of one model, have left; their leases expire."""
        ...

    async def state(self, channel_id: str) -> ChannelState | None:
        """Return the channel's state, or None if it never existed or has expired."""
        ...

    async def vectors(self, channel_id: str) -> bytes | None:
        """Return the vectors that `finish` stored: little-endian float32, one after the other. None without any."""
        ...

    async def record(self, channel_id: str) -> ApiRecord | None:
        """Return what the request's API keeps with it. None without any, and once the channel has expired."""
        ...

    async def forget(self, channel_id: str) -> None:
        """Delete an ended job. An unfinished one is unknown to clients from here on, and goes soon after its end."""
        ...

    async def knows(self, queue: str, key_id: str, key_hash: str) -> bool:
        """Return whether this queue has, or had lately, a request with this idempotency key."""
        ...

    async def depth(self, model: str) -> QueueDepth:
        """Return how many jobs of the model wait and run."""
        ...


class Presence(Protocol):
    """Shows the store which watchers exist, even if they are too busy, or frozen, to report."""

    def present(
        self, model: str, watcher_id: str
    ) -> AbstractAsyncContextManager[Callable[[], Awaitable[None]]]:
        """Keep this watcher visible to the store inside the context; the store notices its death by itself.

        Yields a function that waits, and raises StoreUnavailable once the store may no longer see the watcher.
        """
        ...


ANY_LINE = ""
"""What `stop_requests` yields where any line of a batch may have to give its place to another job."""


@dataclass(frozen=True, slots=True)
class TakeRequest:
    """What a worker asks for with `JobSource.take`.

    Attributes:
        limit: what this worker has room for.
        idle: it has no job in its hands.
        held: jobs in its hands already.
        waited: how often in a row it was told that it had left some. At 0 it gets no more than makes its share even
            with those of the workers that lately had room, too, and half as much again of what begins like something
            that it had lately. From 1 on also what nobody took meanwhile, bit by bit. None: whatever there is.
        stays_s: how long, from its acceptance on, a job is left to the worker that had its beginning and has room.
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
    stays_s: float = 0.03
    without: Collection[str] = ()
    offers: Sequence[Lease] = ()


class JobSource(Protocol):
    """The worker's side of the queue."""

    async def take(self, request: TakeRequest) -> Take:
        """Move up to `limit` waiting jobs to this worker, each under a lease.

        A job that may have crashed a worker before is returned alone, and only to a worker that is `idle`; while such a
        job waits, one busy worker at a time is asked to become idle. The same `call_id` returns the same jobs again.
        """
        ...

    async def start(
        self, lease: Lease, *, prompts: Sequence[Sequence[int]], model_revision: str
    ) -> Verdict:
        """Record that the engine has accepted the prompt, or some of several; append `started` the first time.

        Args:
            prompts: the token ids of each; empty if the engine does not report them, or has not accepted it yet.
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
        """End a job: append `lines` and its terminal event in one step, store its answer, free what it held.

        Args:
            first_seq: number of the first of `lines`, or of the terminal event if there are none.

        Returns:
            A verdict. A `tail` below `first_seq - 1` means that nothing was done: the log is short, append first.
        """
        ...

    async def renew(self, leases: Sequence[Lease], *, lease_s: float) -> list[Verdict]:
        """Extend the leases of jobs of one model by `lease_s` seconds from now."""
        ...

    async def release(
        self, leases: Sequence[Lease], *, max_failures: int | None = None, blamed: bool = False
    ) -> None:
        """Return jobs of one model to the front of their lanes.

        A job that was asked to stop ends instead.

        Args:
            max_failures: set if the holder has crashed and survived to report it. A job that published nothing since
                the take is then charged if its engine had it or if it ran alone, and ends after this many charges;
                other jobs that published nothing twice in a row run alone the next time.
            blamed: each of these may be why the engine is stuck; it is charged even if it has published tokens.
        """
        ...

    async def wait_for_work(self, model: str, *, worker_id: str, timeout_s: float) -> None:
        """Wait until there may be something for this worker to take, or for `timeout_s` seconds."""
        ...

    def stop_requests(self, model: str) -> AbstractAsyncContextManager[AsyncIterator[str]]:
        """Yield channel ids of running jobs that were just asked to stop. A hint: `renew` reports them too.

        `ANY_LINE` instead of an id: a job was queued that goes before lines of batches, and such lines wait.
        """
        ...


class Recovery(Protocol):
    """Steps that anyone may take for jobs whose lease, reader or deadline is gone."""

    async def reap(self, model: str, *, max_failures: int, limit: int) -> Reaped:
        """Requeue jobs with expired leases; end jobs past their deadline or without a watcher."""
        ...


@dataclass(frozen=True, slots=True)
class Look:
    """The state of a channel, with part of its log.

    Attributes:
        state: without the text, which may be long; `JobIntake.state` has it.
        lines: encoded events, as from `EventLog.read`.
    """

    state: ChannelState
    lines: list[bytes]


class EventLog(Protocol):
    """Reads channels' events."""

    async def read(self, channel_id: str, *, after: int, limit: int) -> list[bytes]:
        """Return encoded events with numbers `after + 1`, ... in order; empty at the log's end."""
        ...

    async def look(self, channel_id: str, *, after: int, limit: int) -> Look | None:
        """Return what `read` returns, with at least one event, and the channel's state; None if it does not exist."""
        ...


@dataclass(frozen=True, slots=True)
class LiveBatch:
    """A batch of appended events: `lines[i]` has number `first_seq + i`.

    Attributes:
        received_s: when this process received it, by its monotonic clock; None if it was read from the log.
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
    """Delivers live events. They are hints: a lost one is still in the log."""

    def subscribe(self, channel_id: str) -> AbstractAsyncContextManager[Subscription]:
        """Subscribe inside the context: every event appended after entry is delivered, or `next` returns None."""
        ...

    def nudge(self) -> None:
        """Make `next` return None once to every reader of this process, so that each checks its state."""
        ...


class WorkerRegistry(Protocol):
    """Records which workers are alive. Which models exist is a matter of configuration."""

    async def beat(self, state: WorkerState, *, ttl_s: float) -> None:
        """Report that this worker is alive for the next `ttl_s` seconds."""
        ...

    async def leave(self, worker_id: str) -> None:
        """Remove this worker."""
        ...

    async def alive(self) -> list[WorkerState]:
        """Return the workers whose last heartbeat has not expired."""
        ...

    async def note_shards(self, model: str, shards: int) -> None:
        """Report that requests of this model are spread over so many queues, from now on and until further notice."""
        ...

    async def shards(self, model: str) -> frozenset[int]:
        """Return every number that was noted as long as anything in these queues may be of interest."""
        ...


class Accounts(Protocol):
    """Usage of a model by key, by the day (UTC) on which jobs ended."""

    async def usage(
        self, model: str, *, since: date, until: date, key_id: str | None
    ) -> list[DayUsage]:
        """Return one entry for each day with usage, both ends included, of one key or of all; by day, then key."""
        ...


class TraceOutbox(Protocol):
    """Holds traces of ended jobs on their way to the database. Any number of writers can share the work."""

    async def collect(
        self, model: str, *, writer: str, limit: int, claim_after_s: float
    ) -> TraceBatch:
        """Return traces for this writer: first its own that it did not report as `written`, then those that another
        writer has held for `claim_after_s`, then new ones.

        Unreadable traces are set aside.
        """
        ...

    async def written(self, model: str, entry_ids: Sequence[str]) -> None:
        """Report that the database has these permanently."""
        ...

    async def set_aside(self, model: str, entry_ids: Sequence[str]) -> None:
        """Set aside traces that the database will never accept; the last 100 are kept for 7 days."""
        ...


class Inspector(Protocol):
    """The operators' views, and what operators can do with dead letters. A view costs no more than its page."""

    async def queue(self, model: str, *, top_keys: int) -> QueueView:
        """Return the model's queue, with the `top_keys` longest backlogs."""
        ...

    async def channels(
        self, model: str, *, which: ChannelFilter, limit: int, latest: bool = False
    ) -> list[ChannelView]:
        """Return unfinished jobs, soonest deadline first (the oldest, if all have the same time), or latest first."""
        ...

    async def dead_letters(self, model: str, *, limit: int) -> list[DeadLetter]:
        """Return jobs that were set aside, newest first."""
        ...

    async def dead_letter(self, channel_id: str) -> DeadLetter | None:
        """Return one dead letter, even if it was replayed; None if it is not one."""
        ...

    async def replay(
        self, channel_id: str, *, new_channel_id: str, max_waiting: int
    ) -> Accepted | None:
        """Queue a dead letter's request again: same key and priority, a fresh deadline, a new channel.

        The old channel is finished and remembers the new one: a second replay changes nothing and
        returns the first one's channel. Nobody reads the new channel yet, so a disconnect does not end it. It leaves
        a trace if the letter did.

        Returns:
            None if the channel is not a dead letter.

        Raises:
            QueueFull: `max_waiting` jobs of this model wait already.
            Unreadable: another version of Relais wrote the request; it is kept.
            ImageLost: the request was set aside without its images; it is kept.
        """
        ...

    async def drop(self, channel_id: str) -> bool:
        """Delete a dead letter's request. Returns False if the channel is not a dead letter."""
        ...
