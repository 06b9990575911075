"""What operators see of the queue: frozen types, no I/O. None of them holds a prompt, an answer or a key's secret."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from relais_common.jobs.job import Operation, Priority, Status, StopReason

DEAD_LETTERS_KEPT = 1000
"""Of each model; the oldest leave first."""

DEAD_LETTER_TTL_S = 7 * 24 * 3600


@dataclass(frozen=True, slots=True)
class KeyBacklog:
    """How many jobs of one key wait."""

    key_id: str
    waiting: int


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueView:
    """A model's queue at one instant.

    Attributes:
        waiting: jobs nobody holds, suspects among them.
        waiting_by_priority: the same jobs, by priority.
        waiting_by_key: the keys with the longest backlogs, the longest first; of each priority 500 keys are looked at.
        oldest_waiting_s: seconds since the oldest job of these keys was accepted; None where nothing waits.
        suspects: jobs that crashed a worker before, and wait to be run alone.
        running: jobs in workers' hands.
        dead_letters: jobs that were set aside, out of attempts.
        stored_bytes: what is held of its jobs: waiting, running, dead, ended ones until they are forgotten, and traces.
        waiting_traces: of ended jobs, on their way to the database.
        oldest_trace_s: seconds since the job of the oldest of them ended; None where none waits.
        service_s: mean seconds from take to end; None while nothing was measured.
        estimated_wait_s: what a job at the end of the queue would be told; None while nothing was measured.
    """

    model: str
    waiting: int
    waiting_by_priority: dict[str, int]
    waiting_by_key: tuple[KeyBacklog, ...]
    oldest_waiting_s: float | None
    suspects: int
    running: int
    dead_letters: int
    stored_bytes: int
    waiting_traces: int
    oldest_trace_s: float | None
    service_s: float | None
    estimated_wait_s: float | None


class ChannelFilter(StrEnum):
    """Which living channels to list."""

    ALL = "all"
    QUEUED = "queued"
    RUNNING = "running"
    SUSPECT = "suspect"


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelView:
    """A living job.

    Attributes:
        age_s: seconds since it was accepted.
        deadline_in_s: seconds until it expires; negative where its holder has yet to end it.
        running_s: seconds since it was taken; None while it waits.
        worker: who holds it; None while it waits.
        takes: how often a worker has taken it.
        failures: crashes charged to it; a waiting job with any is a suspect.
        tail: events in its log.
        stop: why it was asked to stop, where it was.
    """

    channel_id: str
    key_id: str
    priority: Priority
    operation: Operation
    status: Status
    age_s: float
    deadline_in_s: float
    running_s: float | None
    worker: str | None
    takes: int
    failures: int
    tail: int
    stop: StopReason | None


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """A job that was set aside; its request is kept, so that it can be replayed.

    Attributes:
        accepted_at_s, failed_at_s: Redis's clock, seconds since the epoch.
        worker: who held it last.
        code, message: the error its client was told.
        request_bytes: size of the request that is kept; 0 once it was replayed.
        replayed_as: the channel it was replayed on, if it was: then it is listed no more.
    """

    channel_id: str
    key_id: str
    priority: Priority
    operation: Operation
    accepted_at_s: float
    failed_at_s: float
    takes: int
    failures: int
    worker: str
    code: str | None
    message: str
    request_bytes: int
    replayed_as: str | None = None
