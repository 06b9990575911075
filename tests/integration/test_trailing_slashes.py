"""A slash at the end of a path is no other path, except where a proxy may block it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncIterator

import aiohttp
import pytest

from relais_orchestrator.api.route import KEYS, Route
from relais_orchestrator.api.table import ROUTES
from relais_testing.builders import MODEL
from relais_testing.stack import Front, Stack, chat_request

ANY_KEY = [route for route in ROUTES if route.access in KEYS]


@pytest.fixture
async def plain(front: Front) -> AsyncIterator[aiohttp.ClientSession]:
    """A client that does not hold answers to the document, which names each path once."""
    # Some errors name their request.
    async with aiohttp.ClientSession(front.url, headers={"X-Request-Id": "same"}) as session:
        yield session


@pytest.mark.parametrize("route", ANY_KEY, ids=lambda route: route.name)
async def test_every_route_of_a_key_may_end_so(plain: aiohttp.ClientSession, route: Route) -> None:
    path = route.template.format_map(defaultdict(lambda: "none", model=MODEL))
    for query in ("", "?since=x"):
        answers = []
        for target in (path, f"{path}/"):
            async with plain.request(route.method, target + query, data=b"{}") as response:
                answers.append((response.status, await response.text()))
        assert answers[0] == answers[1]


@pytest.mark.usefixtures("worker")
async def test_a_root_path_may_be_before_it(stack: Stack) -> None:
    front = await stack.front(API_ROOT_PATH="/relais")
    async with (
        aiohttp.ClientSession(front.url) as session,
        session.post(
            "/relais/v1/chat/completions/", json=chat_request("a", max_tokens=2)
        ) as response,
    ):
        assert response.status == 200


@pytest.mark.parametrize(
    "path", ["/metrics/", "/readyz/", "/v1/kpis/", "/v1/admin/queues/", "/v1/models//", "/v1/"]
)
async def test_what_a_proxy_may_block_has_one_name(plain: aiohttp.ClientSession, path: str) -> None:
    async with plain.get(path) as response:
        assert response.status == 404
