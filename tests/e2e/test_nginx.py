"""Orchestrators behind real nginx, with the configuration that infra/compose ships."""

from __future__ import annotations

import asyncio
import re
from collections import defaultdict
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

import aiohttp
import pytest

from relais_llm_worker.engines.engine_deterministic import answer_text
from relais_orchestrator.api.route import KEYS, Access
from relais_orchestrator.api.table import ROUTES
from relais_testing.native_client import events_url, state_of, submit
from relais_testing.nginx import MAX_BODY_BYTES, nginx_before
from relais_testing.process_stack import DETERMINISTIC, MODEL, Starter
from relais_testing.sse_client import ids_of, read_events, sse_events, text_of
from relais_testing.waiting import LIVENESS_S, wait_until

ROOT_PATH = "/relais"
SLOW = {**DETERMINISTIC, "DETERMINISTIC_TOKENS_PER_S": "5"}
LONG = 3000  # tokens: ten minutes at that pace


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=LIVENESS_S)) as session:
        yield session


async def test_an_event_passes_when_it_comes(
    start: Starter, session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    front = start("orchestrator")
    start("llm_worker", **SLOW)
    with nginx_before([front.url], tmp_path) as base:
        channel_id = await submit(session, base, "slowly", LONG)
        events = await read_events(session, events_url(base, channel_id), stop_after=5)

        assert [event.name for event in events[-2:]] == ["token", "token"]
        assert (await state_of(session, base, channel_id))["status"] == "running"

        chat: dict[str, Any] = {
            "model": MODEL,
            "messages": [{"role": "user", "content": "slowly"}],
            "max_tokens": LONG,
            "stream": True,
        }
        async with session.post(f"{base}/v1/chat/completions", json=chat) as response:
            assert response.status == 200
            stream = sse_events(response)
            chunks = [await anext(stream) for _ in range(3)]
        assert all(chunk.json["choices"][0]["finish_reason"] is None for chunk in chunks)
        chat_channel = response.headers["X-Request-Id"]

        async def is_cancelled() -> bool:
            status: str = (await state_of(session, base, chat_channel))["status"]
            return status == "cancelled"

        await wait_until(is_cancelled)


async def test_a_stream_goes_on_when_its_orchestrator_is_killed(
    start: Starter, session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    fronts = [start("orchestrator"), start("orchestrator")]
    start("llm_worker", **{**DETERMINISTIC, "DETERMINISTIC_TOKENS_PER_S": "50"})
    with nginx_before([front.url for front in fronts], tmp_path) as base:
        channel_id = await submit(session, base, "over", 200)
        url = events_url(base, channel_id)
        first = await read_events(session, url, stop_after=20)
        fronts[0].kill()
        rest = await read_events(session, url, after=int(first[-1].id))

    events = first + rest
    assert ids_of(events) == list(range(1, len(events) + 1))
    assert text_of(events) == answer_text(list(b"over"), 200)


@pytest.mark.parametrize("prefix", [ROOT_PATH, ""])
async def test_page_and_links_are_right_wherever_the_proxy_serves_them(
    prefix: str, start: Starter, session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    front = start("orchestrator", API_ROOT_PATH=prefix)
    start("llm_worker", **DETERMINISTIC)
    with nginx_before([front.url], tmp_path, root_path=prefix) as base:
        page = ""
        for door in ("", "/", "/docs", "/docs/"):
            async with session.get(f"{base}{door}") as response:
                assert response.status == 200
                assert response.url.path == f"{prefix}/docs"
                page = await response.text()
        for asset in re.findall(r'(?:src|href)="([^"]+)"', page):
            async with session.get(urljoin(f"{base}/docs", asset)) as response:
                assert response.status == 200, asset
        async with session.get(f"{base}/openapi.json") as response:
            assert (await response.json())["servers"] == [{"url": prefix or "/"}]

        body = {"model": MODEL, "prompt": "links", "params": {"max_tokens": 3}}
        async with session.post(f"{base}/v1/requests", json=body) as response:
            accepted = await response.json()
            location = urljoin(str(response.url), response.headers["Location"])
        events = await read_events(session, urljoin(base, accepted["events_url"]))
        assert text_of(events) == answer_text(list(b"links"), 3)
        async with session.get(location) as response:
            assert (await response.json())["status"] == "completed"


async def test_request_ids_pass_and_are_made_where_none_came(
    start: Starter, session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    front = start("orchestrator")
    with nginx_before([front.url], tmp_path) as base:
        for given, answered in (
            ({"X-Request-Id": "mine-1"}, "mine-1"),
            ({}, "req-[0-9a-f]{32}"),
            ({"X-Request-Id": "not a name"}, "req-[0-9a-f]{32}"),
        ):
            async with session.get(f"{base}/v1/models", headers=given) as response:
                assert re.fullmatch(answered, response.headers["X-Request-Id"])


async def test_what_is_not_for_the_public_is_not_there(
    start: Starter, session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    front = start("orchestrator", API_ROOT_PATH=ROOT_PATH)
    with nginx_before([front.url], tmp_path, root_path=ROOT_PATH) as base:
        for path in ("/metrics", "/v1/admin/queues", "/v1/%61dmin/queues", "//v1/admin/queues"):
            async with session.get(f"{base}{path}") as response:
                assert response.status == 404, path


async def test_errors_of_the_proxy_look_like_the_api_s(
    start: Starter, session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    front = start("orchestrator")
    with nginx_before([front.url], tmp_path) as base:
        large = {"model": MODEL, "prompt": "x" * MAX_BODY_BYTES}
        async with session.post(f"{base}/v1/requests", json=large) as response:
            assert response.status == 413
            assert (await response.json())["error"]["code"] == "request_too_large"
            assert response.headers["X-Request-Id"]
        front.kill()
        async with session.get(f"{base}/v1/models") as response:
            assert response.status == 503
            assert (await response.json())["error"]["code"] == "unavailable"
            assert response.headers["Retry-After"] == "2"


async def test_the_client_s_address_is_logged_where_the_proxy_is_trusted_alone(
    start: Starter, session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    trusting = start("orchestrator", FORWARDED_ALLOW_IPS="127.0.0.1,10.0.0.0/8")
    wary = start("orchestrator", FORWARDED_ALLOW_IPS="192.0.2.1")
    # Left of what the proxies wrote, a client may write what it likes.
    forwarded = {"X-Forwarded-For": "203.0.113.9, 198.51.100.7, 10.1.2.3"}
    for index, front in enumerate((trusting, wary)):
        with nginx_before([front.url], tmp_path / str(index)) as base:
            body = {"model": MODEL, "prompt": "who"}
            async with session.post(
                f"{base}/v1/requests", json=body, headers=forwarded
            ) as response:
                assert response.status == 202

    assert '"client":"198.51.100.7"' in trusting.log_tail()
    assert '"client":"127.0.0.1"' in wary.log_tail()
    assert "203.0.113.9" not in trusting.log_tail() + wary.log_tail()


CLOSED = ("/metrics", "/readyz", "/v1/admin/queues", "/v1/kpis")
DETOURS = (
    "{root}{closed}",
    "{root}/{closed}",
    "{root}//x{closed}",
    "{root}/%2f{closed}",
    "{root}/.{closed}",
    "{root}/%2e{closed}",
    "{root}/x/..{closed}",
    "{root}/x/%2e%2e{closed}",
    "{root}/x/..;{closed}",
    "{root}/v1/models/..%2f..{closed}",
    "{root}/v1/models/x/../../..{closed}",
    "{root}/docs/..{closed}",
    "{root}/docs//x{closed}",
    "{root}/docs/%2e%2e{closed}",
    "{root}/docs/..%2f{closed}",
    "{root}/v1/models/x%00/../../..{closed}",
    "{root}{closed}/",
    "{root}{closed}/.",
    "{root}{closed}%20",
    "{root}{closed}%00",
    "{root}{closed};x",
    "{root}{closed}?/v1/models",
    "{root}{closed}%3f/v1/models",
    "{root}\\..{closed}",
    "/x/..{root}{closed}",
    "//x{root}{closed}",
    "{closed}",
    "/{closed}",
    "//x{closed}",
    "http://x{root}{closed}",
    "http://x{root}//y{closed}",
    "http://x{closed}",
)
"""Ways to say a closed path that a proxy and the server behind it might read differently."""


async def answer_of(port: int, method: str, target: str) -> bytes:
    """The target goes out as it stands, which no client library would do."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(
        f"{method} {target} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer any\r\nConnection: close\r\n\r\n".encode()
    )
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return answer


async def status_of(port: int, target: str) -> int:
    return int((await answer_of(port, "GET", target)).split()[1])


@pytest.mark.parametrize("root_path", [ROOT_PATH, ""])
async def test_no_detour_leads_to_what_is_not_for_the_public(
    root_path: str, start: Starter, tmp_path: Path
) -> None:
    front = start("orchestrator", API_ROOT_PATH=root_path)
    with nginx_before([front.url], tmp_path, root_path=root_path) as base:
        port = urlsplit(base).port
        assert port is not None
        for closed in CLOSED:
            for detour in DETOURS:
                target = detour.format(root=root_path, closed=closed)
                status = await status_of(port, target)
                assert status in (400, 404), f"{target}: {status}"
                # Nor does it without nginx, unless it is a name of the path itself.
                plain = target.removeprefix("http://x").partition("?")[0]
                if plain not in (closed, root_path + closed):
                    status = await status_of(front.port, target)
                    assert status in (400, 404), f"{target}: {status} without nginx"


async def test_every_public_route_and_no_other_is_passed_on(start: Starter, tmp_path: Path) -> None:
    front = start("orchestrator", API_ROOT_PATH=ROOT_PATH)
    with nginx_before([front.url], tmp_path, root_path=ROOT_PATH) as base:
        port = urlsplit(base).port
        assert port is not None
        for route in ROUTES:
            target = ROOT_PATH + route.template.format_map(
                defaultdict(lambda: "x", model="org/name")
            )
            passed = b"OpenAI-Processing-Ms" in await answer_of(port, route.method, target)
            private = route.access is Access.ADMIN or route.path in ("/metrics", "/readyz")
            assert passed is not private, target
            passed = b"OpenAI-Processing-Ms" in await answer_of(port, route.method, f"{target}/")
            assert passed is (route.access in KEYS), f"{target}/"
