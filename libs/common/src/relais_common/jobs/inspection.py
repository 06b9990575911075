"""The operators' views of the queue: frozen types, no I/O. None contains a prompt, an answer or a secret key."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from relais_common.jobs.job import Operation, Priority, Status, StopReason

DEAD_LETTERS_KEPT = 1000
"""Dead letters kept for each model; the oldest are dropped first."""

DEAD_LETTER_TTL_S = 7 * 24 * 3600


@dataclass(frozen=True, slots=True)
class KeyBacklog:
    """The number of one key's waiting jobs."""

    key_id: str
    waiting: int


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueView:
    """A model's queue at one instant.

    Attributes:
        waiting: jobs that no worker holds, including suspects.
        waiting_by_priority: the same jobs, by priority.
        waiting_by_key: the keys with the longest backlogs, longest first; 500 keys of each priority are considered.
        oldest_waiting_s: seconds since the oldest job of these keys was accepted; None if nothing waits.
        suspects: jobs that crashed a worker before, and wait to be run alone.
        running: jobs that workers hold.
        dead_letters: jobs that were set aside, out of attempts.
        stored_bytes: bytes held for its waiting, running, dead and ended jobs (until they expire), and for traces.
        waiting_traces: traces of ended jobs on their way to the database.
        oldest_trace_s: seconds since the job of the oldest of them ended; None if none waits.
        service_s: mean seconds from take to end; None if not measured yet.
        estimated_wait_s: estimate for a job at the end of the queue; None if not measured yet.
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
    """Filter for unfinished channels."""

    ALL = "all"
    QUEUED = "queued"
    RUNNING = "running"
    SUSPECT = "suspect"


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelView:
    """An unfinished job.

    Attributes:
        age_s: seconds since it was accepted.
        deadline_in_s: seconds until it expires; negative if its holder has not ended it yet.
        running_s: seconds since it was taken; None while it waits.
        worker: its holder; None while it waits.
        takes: how often a worker has taken it.
        failures: crashes charged to it; a waiting job with any is a suspect.
        tail: events in its log.
        stop: why it was asked to stop, if it was.
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
        worker: its last holder.
        code, message: the error that its client got.
        request_bytes: size of the stored request; 0 once it was replayed.
        replayed_as: the channel on which it was replayed, if it was; it is then no longer listed.
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
