"""The routes `/healthz`, `/readyz` and `/health` of every service."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import orjson
from aiohttp import web
from prometheus_client import CollectorRegistry

from relais_common.runtime.connections import BoundedRunner, ConnectionBounds
from relais_common.runtime.lifecycle import cancel_and_wait
from relais_common.runtime.metrics.exposition import add_metrics_route

BOUNDS = ConnectionBounds(
    most=200, most_per_address=100, idle_timeout_s=75, write_timeout_s=30, linger_bytes=64 << 10
)
"""Bounds for a server that only probes and Prometheus use."""

PROBES = ("/healthz", "/readyz", "/health")

Check = Callable[[], Awaitable[str | None]]
"""Returns why the process is not ready, or None if it is."""


def add_health_routes(app: web.Application, ready: Check) -> None:
    """Add `/healthz`, which answers while the event loop runs, and `/readyz`, a 503 while `ready` returns a reason.

    `/health` is `/readyz` by the name that vLLM has, and that load balancers and benchmarks ask for.
    """

    async def healthz(_: web.Request) -> web.Response:
        return _json({"status": "ok"}, 200)

    async def readyz(_: web.Request) -> web.Response:
        reason = await ready()
        if reason is None:
            return _json({"status": "ready"}, 200)
        return _json({"status": "not ready", "reason": reason}, 503)

    for path, handler in zip(PROBES, (healthz, readyz, readyz), strict=True):
        app.router.add_get(path, handler)


def _json(body: dict[str, str], status: int) -> web.Response:
    return web.Response(
        body=orjson.dumps(body),
        status=status,
        content_type="application/json",
        headers={"Cache-Control": "no-store"},
    )


@asynccontextmanager
async def open_health_server(
    host: str, port: int, ready: Check, registry: CollectorRegistry
) -> AsyncIterator[int]:
    """Serve only these routes and `/metrics`, for a process without HTTP. Yields the bound port."""
    app = web.Application()
    add_health_routes(app, ready)
    add_metrics_route(app, registry)
    runner = BoundedRunner(app, BOUNDS, shutdown_timeout_s=1.0)
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port)
        await site.start()
        cutting = asyncio.create_task(runner.cut_unread())
        try:
            yield runner.addresses[0][1]
        finally:
            await cancel_and_wait(cutting)
    finally:
        await runner.cleanup()
