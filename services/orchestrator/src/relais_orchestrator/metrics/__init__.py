"""Metrics of an orchestrator."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from aiohttp.typedefs import Middleware
from prometheus_client import CollectorRegistry

from relais_common.queue.ports import Inspector, WorkerRegistry
from relais_orchestrator.metrics.batches import BatchMetrics
from relais_orchestrator.metrics.queues import QueueMetrics
from relais_orchestrator.metrics.requests import RequestMetrics
from relais_orchestrator.metrics.streams import StreamMetrics
from relais_orchestrator.metrics.traces import TraceMetrics


@dataclass(frozen=True, slots=True)
class OrchestratorMetrics:
    """All metrics of an orchestrator, in one registry."""

    registry: CollectorRegistry
    requests: RequestMetrics
    streams: StreamMetrics
    queues: QueueMetrics
    traces: TraceMetrics
    batches: BatchMetrics

    @property
    def middleware(self) -> Middleware:
        """Return the middleware that measures requests."""
        return self.requests.middleware(self.streams.native, self.streams.openai)


def open_metrics(
    registry: CollectorRegistry,
    inspector: Inspector,
    workers: WorkerRegistry,
    models: tuple[str, ...],
    routes: Collection[str],
    submitting: Collection[str],
) -> OrchestratorMetrics:
    """Return the metrics of an orchestrator with these models and routes, of which `submitting` queue requests."""
    return OrchestratorMetrics(
        registry,
        RequestMetrics(registry, models, routes, submitting),
        StreamMetrics(registry),
        QueueMetrics(registry, inspector, workers, models),
        TraceMetrics(registry, models),
        BatchMetrics(registry),
    )
