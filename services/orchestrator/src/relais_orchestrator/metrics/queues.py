"""Metrics of queues and workers, read from Redis on scrape. Every orchestrator reports the same values."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

import structlog
from prometheus_client import CollectorRegistry

from relais_common.jobs.errors import StoreUnavailable
from relais_common.jobs.inspection import QueueView
from relais_common.jobs.job import Priority, WorkerState
from relais_common.queue.ports import Inspector, WorkerRegistry
from relais_common.runtime.metrics.instruments import Gauge

log = structlog.get_logger(__name__)

FRESH_S = 5.0
"""Scrapes within this time get the same values."""

TIMEOUT_S = 2.0
"""After this time, Redis counts as down, and a scrape gets the remaining metrics."""

STATES = ("ready", "not_ready", "draining")


class QueueMetrics:
    """Queue metrics of the declared models."""

    def __init__(
        self,
        registry: CollectorRegistry,
        inspector: Inspector,
        workers: WorkerRegistry,
        models: Sequence[str],
    ) -> None:
        self._inspector = inspector
        self._registry = workers
        self._models = models
        self._looked_s: float | None = None
        self._looking = asyncio.Lock()
        by_model = {"model_name": models}

        def gauge(name: str, documentation: str, **labels: Sequence[str]) -> Gauge:
            return Gauge(registry, name, documentation, by_model | labels)

        self._waiting = gauge(
            "relais_num_requests_waiting", "Requests that nobody holds.", priority=tuple(Priority)
        )
        self._oldest = gauge(
            "relais_oldest_waiting_seconds", "Age of the oldest of them; 0 where nothing waits."
        )
        self._suspects = gauge(
            "relais_num_requests_suspect", "Of them, those that crashed a worker before."
        )
        self._leased = gauge("relais_num_requests_leased", "Requests in any worker's hands.")
        self._unfinished = gauge(
            "relais_num_requests_unfinished",
            "Requests that wait or run: what workers are scaled by.",
        )
        self._dead = gauge("relais_dead_letters", "Requests that were set aside, out of attempts.")
        self._traces = gauge(
            "relais_traces_waiting", "Traces of ended requests that wait in Redis for MongoDB."
        )
        self._oldest_trace = gauge(
            "relais_oldest_trace_waiting_seconds", "Age of the oldest of them; 0 where none waits."
        )
        self._wait = gauge(
            "relais_estimated_wait_seconds",
            "What a request at the end of the queue would be told; absent until one was measured.",
        )
        self._workers = gauge("relais_workers", "Workers that are alive.", state=STATES)
        self._capacity = gauge(
            "relais_workers_capacity", "Requests that the ready ones run at once, at the most."
        )
        self._up = Gauge(
            registry, "relais_redis_up", "1 where Redis answered the last look at the queues."
        ).of()

    async def refresh(self) -> None:
        """Refresh metrics that are computed on scrape, unless they are recent."""
        async with self._looking:
            now_s = time.monotonic()
            if self._looked_s is not None and now_s - self._looked_s < FRESH_S:
                return
            try:
                async with asyncio.timeout(TIMEOUT_S):
                    views = [await self._inspector.queue(one, top_keys=0) for one in self._models]
                    workers = await self._registry.alive()
            except (StoreUnavailable, TimeoutError) as error:
                log.warning("queue_metrics_unavailable", error=str(error))
                self._forget()
            else:
                self._show(views, workers)
            self._looked_s = time.monotonic()

    def _forget(self) -> None:
        self._up.set(0)
        for gauge in (
            *(self._waiting, self._oldest, self._suspects, self._leased),
            *(self._unfinished, self._dead, self._wait, self._workers, self._capacity),
            *(self._traces, self._oldest_trace),
        ):
            gauge.clear()

    def _show(self, views: Sequence[QueueView], workers: Sequence[WorkerState]) -> None:
        self._forget()
        self._up.set(1)
        for view in views:
            for priority, waiting in view.waiting_by_priority.items():
                self._waiting.of(view.model, priority).set(waiting)
            self._oldest.of(view.model).set(view.oldest_waiting_s or 0.0)
            self._suspects.of(view.model).set(view.suspects)
            self._leased.of(view.model).set(view.running)
            self._unfinished.of(view.model).set(view.waiting + view.running)
            self._dead.of(view.model).set(view.dead_letters)
            self._traces.of(view.model).set(view.waiting_traces)
            self._oldest_trace.of(view.model).set(view.oldest_trace_s or 0.0)
            if view.estimated_wait_s is not None:
                self._wait.of(view.model).set(view.estimated_wait_s)
        self._workers.start_at_zero()
        self._capacity.start_at_zero()
        for worker in workers:
            state = _state(worker)
            self._workers.of(worker.model, state).inc()
            if state == "ready":
                self._capacity.of(worker.model).inc(worker.capacity)


def _state(worker: WorkerState) -> str:
    if worker.draining:
        return "draining"
    return "ready" if worker.not_ready is None else "not_ready"
