"""Metrics of this process's trace writer. Waiting traces are among the queue metrics."""

from __future__ import annotations

from collections.abc import Sequence

from prometheus_client import CollectorRegistry

from relais_common.runtime.metrics import buckets
from relais_common.runtime.metrics.instruments import Counter, Histogram


class TraceMetrics:
    """Trace metrics of the declared models."""

    def __init__(self, registry: CollectorRegistry, models: Sequence[str]) -> None:
        by_model = {"model_name": models}
        self.written = Counter(
            registry,
            "relais_traces_written_total",
            "Traces that this process has seen written for good.",
            by_model,
        )
        self.set_aside = Counter(
            registry,
            "relais_traces_set_aside_total",
            "Traces that could not be read or would never be taken, and were set aside.",
            by_model,
        )
        self.errors = Counter(
            registry,
            "relais_trace_write_errors_total",
            "Tries to write that failed, by what was away; the traces wait.",
            {"store": ("redis", "mongodb")},
        )
        self.write_seconds = Histogram(
            registry,
            "relais_trace_write_duration_seconds",
            "Time that the database took for one batch of traces, journalled.",
            buckets=buckets.STORE_S,
        ).of()
