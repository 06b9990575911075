"""The routes that probes ask."""

from __future__ import annotations

import aiohttp
from prometheus_client import CollectorRegistry

from relais_common.runtime.health import open_health_server


class Readiness:
    def __init__(self) -> None:
        self.reason: str | None = "loading the model"

    async def __call__(self) -> str | None:
        return self.reason


async def test_health_answers_while_not_ready_and_ready_follows_the_check() -> None:
    ready = Readiness()
    async with (
        open_health_server("127.0.0.1", 0, ready, CollectorRegistry()) as port,
        aiohttp.ClientSession(f"http://127.0.0.1:{port}") as client,
    ):
        async with client.get("/healthz") as response:
            assert (response.status, await response.json()) == (200, {"status": "ok"})
        for path in ("/readyz", "/health"):
            ready.reason = "loading the model"
            async with client.get(path) as response:
                assert response.status == 503
                assert await response.json() == {"status": "not ready", "reason": ready.reason}
                assert response.headers["Cache-Control"] == "no-store"
            ready.reason = None
            async with client.get(path) as response:
                assert (response.status, await response.json()) == (200, {"status": "ready"})
        async with client.get("/other") as response:
            assert response.status == 404


async def test_port_is_free_again_afterwards() -> None:
    ready = Readiness()
    async with open_health_server("127.0.0.1", 0, ready, CollectorRegistry()) as port:
        pass
    async with open_health_server("127.0.0.1", port, ready, CollectorRegistry()) as again:
        assert again == port
