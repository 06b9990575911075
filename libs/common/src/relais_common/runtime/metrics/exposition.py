"""The registry of a process, and `/metrics`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from aiohttp import web
from prometheus_client import (
    CollectorRegistry,
    GCCollector,
    PlatformCollector,
    ProcessCollector,
)
from prometheus_client.exposition import choose_encoder

from relais_common import __version__
from relais_common.runtime.metrics import buckets
from relais_common.runtime.metrics.instruments import Gauge, Histogram

LAG_EVERY_S = 0.5

Refresh = Callable[[], Awaitable[None]]
"""Refreshes metrics that are computed on scrape."""


def new_registry(package: str) -> CollectorRegistry:
    """Return a new registry for one service, with process, interpreter, garbage collector and build metrics."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    GCCollector(registry=registry)
    built = {"service": package.removeprefix("relais-"), "version": __version__}
    info = Gauge(
        registry,
        "relais_build_info",
        "What runs here; always 1.",
        {label: (value,) for label, value in built.items()},
    )
    info.of(*built.values()).set(1)
    return registry


def add_metrics_route(
    app: web.Application, registry: CollectorRegistry, refresh: Refresh | None = None
) -> None:
    """Add `/metrics`, as text or OpenMetrics, whichever the scraper requests."""

    async def metrics(request: web.Request) -> web.Response:
        if refresh is not None:
            await refresh()
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        return web.Response(
            body=encode(registry),
            headers={"Content-Type": content_type, "Cache-Control": "no-store"},
        )

    app.router.add_get("/metrics", metrics)


class LoopLag:
    """Measures how late timers of the event loop fire."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._lag = Histogram(
            registry,
            "relais_event_loop_lag_seconds",
            "How late a timer of the event loop was: time in which the process served nobody else.",
            buckets=buckets.DELAY_S,
        ).of()

    async def run(self) -> None:
        """Measure twice a second, for ever."""
        while True:
            due_s = time.monotonic() + LAG_EVERY_S
            await asyncio.sleep(LAG_EVERY_S)
            self._lag.observe(max(0.0, time.monotonic() - due_s))
