"""The routes that probes ask."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

import aiohttp
from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily, Metric

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


class Costly:
    """Metrics that take long to write out."""

    def __init__(self) -> None:
        self.times_s: list[tuple[float, float]] = []

    def collect(self) -> Iterator[Metric]:
        began_s = time.monotonic()
        while time.monotonic() - began_s < 0.01:
            pass
        self.times_s.append((began_s, time.monotonic() - began_s))
        yield GaugeMetricFamily("written", "How often.", len(self.times_s))


async def test_scrapers_take_a_small_part_of_the_time_however_many_there_are() -> None:
    registry, costly = CollectorRegistry(), Costly()
    registry.register(costly)
    async with (
        open_health_server("127.0.0.1", 0, Readiness(), registry) as port,
        aiohttp.ClientSession(f"http://127.0.0.1:{port}") as client,
    ):
        costly.times_s.clear()

        async def scrape(times: int) -> None:
            for _ in range(times):
                # As it was asked for or later, never earlier.
                before = len(costly.times_s)
                async with client.get("/metrics") as response:
                    text = await response.text()
                assert float(text.rpartition(" ")[2]) > before

        await asyncio.gather(*(scrape(5) for _ in range(20)))
    assert len(costly.times_s) <= 2 * 5 + 2
    (first_s, _), *_, (last_s, _) = costly.times_s
    # It rests after each, so that what the last one took counts not yet.
    assert sum(took_s for _, took_s in costly.times_s[:-1]) < (last_s - first_s) / 4
