"""Metrics of the protocol's steps: durations and failures."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from inspect import iscoroutinefunction

from prometheus_client import CollectorRegistry

from relais_common.jobs.errors import StoreUnavailable
from relais_common.queue import ports
from relais_common.queue.ports import Reaped
from relais_common.runtime.metrics import buckets
from relais_common.runtime.metrics.instruments import Counter, Histogram

_PORTS = (
    ports.JobIntake,
    ports.JobSource,
    ports.Recovery,
    ports.EventLog,
    ports.WorkerRegistry,
    ports.Inspector,
    ports.TraceOutbox,
)
STEPS = tuple(
    sorted(
        {
            name
            for port in _PORTS
            for name, member in vars(port).items()
            if iscoroutinefunction(member)
        }
    )
)
_WAITS = "wait_for_work"
"""This step waits until something comes, so its duration says nothing about the store."""


class StoreMetrics:
    """Metrics of all calls that one process makes to the store."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._seconds = Histogram(
            registry,
            "relais_redis_step_duration_seconds",
            "Time that a step of the protocol took, Redis, network and the client's repetitions included.",
            {"step": STEPS},
            buckets=buckets.STORE_S,
        )
        self._errors = Counter(
            registry,
            "relais_redis_errors_total",
            "Steps of the protocol that failed because Redis was away, loading, full or too slow.",
            {"step": STEPS},
        )
        self._reaped = Counter(
            registry,
            "relais_reaped_requests_total",
            "Requests that this process's reaper put back (lease over), or ended (deadline, no reader, failures).",
            {"outcome": ("requeued", "ended")},
        )

    @contextmanager
    def timed(self, step: str) -> Iterator[None]:
        """Time the step that is done inside; count it where the store is unavailable."""
        began_s = time.monotonic()
        try:
            yield
        except StoreUnavailable:
            self._errors.of(step).inc()
            raise
        finally:
            if step != _WAITS:
                self._seconds.of(step).observe(time.monotonic() - began_s)

    def reaped(self, reaped: Reaped) -> None:
        """Count what one pass of the reaper did."""
        self._reaped.of("requeued").inc(reaped.requeued)
        self._reaped.of("ended").inc(reaped.ended)
