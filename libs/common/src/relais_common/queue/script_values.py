"""Arguments and answers of scripts that several adapters share."""

from __future__ import annotations

from typing import Any, NamedTuple

from relais_common.jobs.channels import channel_model
from relais_common.jobs.errors import (
    QueueFull,
    TooManyInFlight,
    key_storage_full,
    storage_full,
)
from relais_common.jobs.inspection import DEAD_LETTER_TTL_S, DEAD_LETTERS_KEPT
from relais_common.jobs.job import (
    Accepted,
    ChannelState,
    Job,
    OnDisconnect,
    OnWorkerLoss,
    Operation,
    Priority,
    Status,
)
from relais_common.jobs.traces import traces_full
from relais_common.queue import codec
from relais_common.queue.client.packing import Argument


def read_seconds(value: bytes) -> float | None:
    """Read a time from a script; '' means none."""
    return float(value) if value else None


def read_acceptance(model: str, answer: list[Any]) -> Accepted:
    """Read a script's answer to a job that it should accept.

    Raises:
        QueueFull, TooManyInFlight, StorageFull, KeyStorageFull, TracesFull: the job was refused.
    """
    verdict, *rest = answer
    if verdict == b"full":
        waiting, wait = rest
        raise QueueFull(
            f"{waiting} requests wait for {model!r} already",
            retry_after_s=read_seconds(wait) or 1.0,
        )
    if verdict == b"key_full":
        unfinished, wait = rest
        raise TooManyInFlight(
            f"{unfinished} requests of this key to {model!r} have not ended",
            retry_after_s=read_seconds(wait) or 1.0,
        )
    if verdict == b"no_room":
        stored, wait = rest
        raise storage_full(model, stored, retry_after_s=float(wait))
    if verdict == b"key_no_room":
        stored, wait = rest
        raise key_storage_full(model, stored, retry_after_s=float(wait))
    if verdict == b"traces_full":
        raise traces_full(model, rest[0])
    channel_id, status, position, wait = rest
    return Accepted(
        channel_id=channel_id.decode(),
        status=Status(status.decode()),
        queue_position=position,
        estimated_wait_s=read_seconds(wait),
        duplicate=verdict == b"duplicate",
    )


def read_state(channel_id: str, fields: list[Any], text: str | None) -> ChannelState:
    """Read a channel's state from a script's answer."""
    (
        key_id,
        operation,
        status,
        on_disconnect,
        position,
        wait,
        tail,
        accepted_at,
        started_at,
        finished_at,
        outcome,
        replayed_as,
    ) = fields
    return ChannelState(
        channel_id=channel_id,
        model=channel_model(channel_id),
        key_id=key_id.decode(),
        operation=Operation(operation.decode()),
        status=Status(status.decode()),
        on_disconnect=OnDisconnect(on_disconnect.decode()),
        queue_position=position,
        estimated_wait_s=read_seconds(wait),
        tail=tail,
        accepted_at_s=float(accepted_at),
        started_at_s=read_seconds(started_at),
        finished_at_s=read_seconds(finished_at),
        text=text,
        outcome=outcome,
        replayed_as=None if replayed_as is None else replayed_as.decode(),
    )


class JobArguments(NamedTuple):
    """A job as the scripts that take one in expect it. `intake/enqueue.lua` says what each is."""

    id: str
    payload: bytes
    owner: str
    operation: Operation
    priority: Priority
    on_disconnect: OnDisconnect
    deadline_s: float
    log_ttl_s: float
    result_ttl_s: float
    watch_grace_s: float
    on_worker_loss: OnWorkerLoss

    @classmethod
    def of(cls, job: Job, payload: bytes, *, watch_grace_s: float) -> JobArguments:
        """Return the arguments of an encoded job."""
        return cls(
            id=job.channel_id,
            payload=payload,
            owner=job.key_id,
            operation=job.operation,
            priority=job.priority,
            on_disconnect=job.on_disconnect,
            deadline_s=job.deadline_s,
            log_ttl_s=job.log_ttl_s,
            result_ttl_s=job.result_ttl_s,
            watch_grace_s=watch_grace_s,
            on_worker_loss=job.on_worker_loss,
        )


def parting(max_failures: int) -> list[Argument]:
    """Return the arguments for a job that its holder has released; see `let_go` in `queue/lua/lib.lua`."""
    return [
        DEAD_LETTER_TTL_S,
        DEAD_LETTERS_KEPT,
        max_failures,
        codec.EXPIRED_LINE,
        codec.DISCONNECTED_LINE,
        codec.CANCELLED_LINE,
        codec.WORKER_LOST_LINE,
    ]
