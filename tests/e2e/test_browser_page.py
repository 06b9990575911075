"""The example page: what it asks for exists, and the way it takes past a dead server is there. No browser is needed.

What only a browser can show, that EventSource and the script do take that way, was checked by hand.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from aiohttp.test_utils import TestServer

from relais_common.queue.codec import NAMES
from relais_orchestrator.api.table import ROUTES
from relais_testing.process_stack import DETERMINISTIC, MODEL, Starter
from relais_testing.processes import ServiceProcess
from relais_testing.sse_client import SseEvent, ids_of, read_events, sse_events
from serve import PAGE, make_app

SCRIPT = PAGE.read_text().partition("<script>")[2]


@pytest.fixture
def fronts(start: Starter) -> list[ServiceProcess]:
    start("llm_worker", **DETERMINISTIC, DETERMINISTIC_TOKENS_PER_S="100")
    return [start("orchestrator"), start("orchestrator")]


@pytest.fixture
async def site(fronts: list[ServiceProcess]) -> AsyncIterator[aiohttp.ClientSession]:
    """As a browser sees the page's origin."""
    async with TestServer(make_app([front.url for front in fronts])) as server:
        timeout = aiohttp.ClientTimeout(total=100)
        async with aiohttp.ClientSession(server.make_url("/"), timeout=timeout) as session:
            yield session


def test_page_loads_nothing_from_elsewhere() -> None:
    assert not re.search(r"https?://|@import|src=|url\(", PAGE.read_text())


def test_page_asks_for_routes_that_exist() -> None:
    asked = {
        re.sub(r"\$\{[^}]*\}", "{channel_id}", path) for path in re.findall(r"/v1/[^`\"]+", SCRIPT)
    }
    assert asked
    assert asked <= {route.path for route in ROUTES}


def test_page_listens_to_every_event() -> None:
    heard = set(re.findall(r'"(\w+)"', " ".join(re.findall(r"\[(\"queued\".*?)\]", SCRIPT))))
    heard |= set(re.findall(r'"(\w+)"', " ".join(re.findall(r"TERMINAL = \[(.*?)\]", SCRIPT))))
    assert {name.decode() for name in NAMES.values()} <= heard


async def test_page_is_told_of_every_server(site: aiohttp.ClientSession) -> None:
    async with site.get("/") as response:
        assert response.url.query.getall("url") == ["/0", "/1"]
        assert "EventSource" in await response.text()


async def test_page_finds_the_rest_of_an_answer_at_the_next_server(
    site: aiohttp.ClientSession, fronts: list[ServiceProcess]
) -> None:
    body: dict[str, Any] = {"model": MODEL, "prompt": "page", "params": {"max_tokens": 200}}
    async with site.post("/0/v1/requests", json=body, headers={"Idempotency-Key": "a"}) as response:
        assert response.status == 202
        accepted = await response.json()
    events_url = accepted["events_url"]
    seen: list[SseEvent] = []
    async with site.get(f"/0{events_url}") as response:
        assert response.content_type == "text/event-stream"
        with pytest.raises(aiohttp.ClientError):  # an EventSource reconnects at this
            async for event in sse_events(response):
                seen.append(event)
                if len(seen) == 30:
                    fronts[0].kill()
    last = seen[-1].id
    async with site.get(f"/0{events_url}", headers={"Last-Event-ID": last}) as response:
        assert response.status == 502  # and gives up at this
    async with site.get(f"/1/v1/channels/{accepted['channel_id']}") as response:
        assert (await response.json())["last_event_id"] >= int(last)
    seen += await read_events(site, f"/1{events_url}&last_event_id={last}")
    assert ids_of(seen) == list(range(1, 204))
    assert seen[-1].name == "completed"
