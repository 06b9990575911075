"""Metrics of the batches that this process runs. Queue metrics have the lines that wait, as priority `batch`."""

from __future__ import annotations

from prometheus_client import CollectorRegistry

from relais_common.runtime.metrics.instruments import Counter, Gauge


class BatchMetrics:
    """Batches held and ended."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.held = Gauge(registry, "relais_batches_held", "Batches that this orchestrator runs.")
        self.ended = Counter(
            registry,
            "relais_batches_ended_total",
            "Batches that this orchestrator ended.",
            {"status": ("completed", "failed", "cancelled", "expired")},
        )
        self.requests = Counter(
            registry,
            "relais_batch_requests_total",
            "Requests of the batches that this orchestrator ended.",
            {"status": ("completed", "failed")},
        )
