"""The example page: what it asks for exists, and the way it takes past a dead server is there. No browser is needed.

What only a browser can show, that EventSource and the script do take that way, was checked by hand.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from relais_common.queue.codec import NAMES
from relais_orchestrator.api.table import ROUTES
from relais_testing.process_stack import DETERMINISTIC, MODEL, Starter
from relais_testing.processes import ServiceProcess
from relais_testing.sse_client import SseEvent, ids_of, read_events, sse_events
from relais_testing.waiting import LIVENESS_S

PAGE = Path(__file__).resolve().parents[2] / "examples" / "browser.html"
ORIGIN = {"Origin": "http://localhost:8090"}
"""Where examples/README.md serves the page."""

SCRIPT = PAGE.read_text().partition("<script>")[2]


@pytest.fixture
def fronts(start: Starter) -> list[ServiceProcess]:
    start("llm_worker", **DETERMINISTIC, DETERMINISTIC_TOKENS_PER_S="100")
    return [start("orchestrator"), start("orchestrator")]


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


def may_be_read(response: aiohttp.ClientResponse) -> bool:
    return response.headers.get("Access-Control-Allow-Origin") == ORIGIN["Origin"]


async def test_page_finds_the_rest_of_an_answer_at_the_next_server(
    fronts: list[ServiceProcess],
) -> None:
    first, second = (front.url for front in fronts)
    body: dict[str, Any] = {"model": MODEL, "prompt": "page", "params": {"max_tokens": 200}}
    asked = "authorization,content-type,idempotency-key"
    preflight = {
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": asked,
    }
    timeout = aiohttp.ClientTimeout(total=LIVENESS_S)
    async with aiohttp.ClientSession(headers=ORIGIN, timeout=timeout) as browser:
        async with browser.options(f"{first}/v1/requests", headers=preflight) as response:
            assert may_be_read(response)
            assert response.headers["Access-Control-Allow-Headers"] == asked
        once = {"Idempotency-Key": "a"}
        async with browser.post(f"{first}/v1/requests", json=body, headers=once) as response:
            assert response.status == 202
            assert may_be_read(response)
            accepted = await response.json()
        events_url = accepted["events_url"]
        seen: list[SseEvent] = []
        async with browser.get(f"{first}{events_url}") as response:
            assert response.content_type == "text/event-stream"
            assert may_be_read(response)
            with pytest.raises(aiohttp.ClientError):  # an EventSource reconnects at this
                async for event in sse_events(response):
                    seen.append(event)
                    if len(seen) == 30:
                        fronts[0].kill()
        last = seen[-1].id
        async with browser.get(f"{second}/v1/channels/{accepted['channel_id']}") as response:
            assert may_be_read(response)
            assert (await response.json())["last_event_id"] >= int(last)
        seen += await read_events(browser, f"{second}{events_url}&last_event_id={last}")
    assert ids_of(seen) == list(range(1, 204))
    assert seen[-1].name == "completed"
