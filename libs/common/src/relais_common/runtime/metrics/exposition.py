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

RESTS = 9
"""How many times as long as it took to write metrics out, nobody has them written again."""

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

    texts = _Texts(registry, refresh)

    async def metrics(request: web.Request) -> web.Response:
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        return web.Response(
            body=await texts.next(content_type, encode),
            headers={"Content-Type": content_type, "Cache-Control": "no-store"},
        )

    app.router.add_get("/metrics", metrics)


class _Texts:
    """Writes a registry out, once for all scrapes that wait, and then rests for some time.

    It takes the event loop tens of milliseconds, and no key.
    """

    def __init__(self, registry: CollectorRegistry, refresh: Refresh | None) -> None:
        self._registry = registry
        self._refresh = refresh
        self._writing: dict[str, asyncio.Task[bytes]] = {}
        self._rested_s = 0.0

    async def next(self, content_type: str, encode: Callable[[CollectorRegistry], bytes]) -> bytes:
        """Return a text that shows what happened before this call."""
        writing = self._writing.get(content_type)
        if writing is None:
            writing = asyncio.create_task(self._write(content_type, encode))
            self._writing[content_type] = writing
        # A scraper that leaves does not take the text from the others.
        return await asyncio.shield(writing)

    async def _write(
        self, content_type: str, encode: Callable[[CollectorRegistry], bytes]
    ) -> bytes:
        try:
            await asyncio.sleep(self._rested_s - time.monotonic())
            if self._refresh is not None:
                await self._refresh()
        finally:
            del self._writing[content_type]
        began_s = time.monotonic()
        text = encode(self._registry)
        ended_s = time.monotonic()
        self._rested_s = ended_s + RESTS * (ended_s - began_s)
        return text


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
