"""Trace documents as the orchestrator writes them; any field may be given."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from relais_common.jobs.job import Operation, Priority, Status
from relais_common.jobs.traces import Phases, Trace, trace_document

HOUR_0 = datetime(2026, 11, 2, 9, tzinfo=UTC)
"""A Monday."""


def make_trace(
    number: int = 0,
    *,
    finished_at: datetime = HOUR_0,
    queue_s: float = 0.5,
    prefill_s: float = 0.25,
    decode_s: float = 1.0,
    stalled_s: float = 0.0,
    output_tokens: int = 11,
    status: Status = Status.COMPLETED,
    operation: Operation = Operation.CHAT,
    priority: Priority = Priority.NORMAL,
    model: str = "m",
    key_id: str = "client1",
    error_type: str | None = None,
    error_status: int | None = None,
    takes: int = 1,
    cancel_reason: str | None = None,
) -> Trace:
    """Return the trace of a request that ended at this time, and was accepted as its phases say."""
    phases = Phases(queue_s=queue_s, prefill_s=prefill_s, decode_s=decode_s, stalled_s=stalled_s)
    finished_at_s = finished_at.timestamp()
    accepted_at_s = finished_at_s - phases.total_s
    return Trace(
        channel_id=f"{model}.{number}",
        key_id=key_id,
        model=model,
        model_revision=None,
        operation=operation,
        priority=priority,
        status=status,
        error_type=error_type,
        error_status=error_status,
        finish_reason="stop" if status is Status.COMPLETED else None,
        cancel_reason=cancel_reason,
        takes=takes,
        failures=0,
        input_tokens=20,
        output_tokens=output_tokens,
        cached_tokens=5,
        wasted_tokens=0 if status is Status.COMPLETED else output_tokens,
        accepted_at_s=accepted_at_s,
        first_token_at_s=accepted_at_s + queue_s + prefill_s if output_tokens else None,
        finished_at_s=finished_at_s,
        phases=phases,
    )


def make_document(
    number: int = 0, *, recorded_at: datetime | None = None, **fields: Any
) -> dict[str, Any]:
    """Return the document of `make_trace`, by default recorded a second after the end."""
    trace = make_trace(number, **fields)
    ended = datetime.fromtimestamp(trace.finished_at_s, UTC)
    return trace_document(trace, recorded_at=recorded_at or ended + timedelta(seconds=1))
