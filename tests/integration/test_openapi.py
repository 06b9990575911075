"""`/openapi.json`, and what the server sends beside it: every route declared, every event of the declared type."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from relais_common import __version__
from relais_common.runtime.metrics.exposition import new_registry
from relais_orchestrator.api.route import Access
from relais_orchestrator.api.table import ROUTES
from relais_orchestrator.app import create_app
from relais_orchestrator.metrics import open_metrics
from relais_testing.builders import MODEL
from relais_testing.documented import OUTSIDE, check_json, document
from relais_testing.sse_client import read_events, sse_events
from relais_testing.stack import Front, Stack, chat_request

CHAT, COMPLETION = "/v1/chat/completions", "/v1/completions"


async def test_document_is_served_and_asked_for_again_only_when_it_changes(front: Front) -> None:
    async with front.get("/openapi.json") as response:
        assert response.status == 200
        served = await response.json()
        etag = response.headers["ETag"]
    assert served["paths"].keys() == document()["paths"].keys()
    assert served["info"]["version"] == __version__
    async with front.get("/openapi.json", headers={"If-None-Match": etag}) as response:
        assert response.status == 304
        assert await response.read() == b""
    async with front.get("/openapi.json", headers={"If-None-Match": '"other"'}) as response:
        assert response.status == 200


async def test_document_says_where_a_proxy_serves_it(stack: Stack) -> None:
    front = await stack.front(API_ROOT_PATH="/relais/")
    async with front.get("/openapi.json") as response:
        assert (await response.json())["servers"] == [{"url": "/relais"}]


async def test_every_route_of_the_server_is_declared(front: Front, stack: Stack) -> None:
    metrics = open_metrics(
        new_registry("relais-orchestrator"),
        stack.store.inspector,
        stack.store.registry,
        (MODEL,),
        (),
        (),
    )
    app = create_app(front.parts, stack.store, metrics)
    served = {
        (route.method, route.resource.canonical)
        for route in app.router.routes()
        if route.resource is not None and route.method != "HEAD"
    }
    declared = {(route.method, route.template) for route in ROUTES}
    assert {one for one in served if not OUTSIDE.fullmatch(one[1])} == declared


def events_of(path: str) -> dict[str, list[Any]]:
    """Names of a stream's events, and the schemas of their data."""
    (route,) = (one for one in ROUTES if one.path == path)
    responses = document()["paths"][route.template][route.method.lower()]["responses"]
    found: dict[str, list[Any]] = {}
    for event in responses["200"]["content"]["text/event-stream"]["schema"]["anyOf"]:
        properties = event["properties"]
        if "contentSchema" in properties["data"]:
            name = properties["event"]["const"]
            found.setdefault(name, []).append(properties["data"]["contentSchema"])
    return found


@pytest.mark.usefixtures("worker")
async def test_events_of_a_channel_are_of_their_declared_types(front: Front) -> None:
    declared = events_of("/v1/channels/{channel_id}/events")
    for content in ("a", "[engine-fault]"):
        channel_id = await front.submit(chat_request(content))
        events = await read_events(front.session, f"/v1/channels/{channel_id}/events")
        assert events[-1].name in ("completed", "failed")
        for event in events:
            check_json({"anyOf": declared[event.name]}, event.json)


@pytest.mark.usefixtures("worker")
@pytest.mark.parametrize("path", [CHAT, COMPLETION])
async def test_chunks_of_a_stream_are_of_their_declared_type(front: Front, path: str) -> None:
    declared = events_of(path)["message"]
    body = chat_request("a", stream=True, stream_options={"include_usage": True})
    if path == COMPLETION:
        body["prompt"] = "a"
        del body["messages"]
    async with front.post(path, body) as response:
        data = [event.data async for event in sse_events(response)]
    assert data.pop() == "[DONE]"
    chunks = [json.loads(one) for one in data]
    for chunk in chunks:
        check_json(declared[0], chunk)
    assert chunks[-1]["timings"]["queue_s"] >= 0


async def test_no_route_opens_without_its_key(stack: Stack, tmp_path: Path) -> None:
    keys = tmp_path / "keys.json"
    keys.write_text(json.dumps({"client1": "a-good-key-of-a-client"}))
    keys.chmod(0o600)
    front = await stack.front(ENV="staging", API_KEYS=str(keys))
    for route in ROUTES:
        path = re.sub(r"\{\w+\}", "x", route.template)
        given = [{}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic YTpi"}]
        for headers in given if route.access is not Access.OPEN else []:
            async with front.session.request(route.method, path, headers=headers) as response:
                assert response.status == 401, (route.name, headers)
                assert response.headers["WWW-Authenticate"] == "Bearer"
        good = {"Authorization": "Bearer a-good-key-of-a-client"}
        async with front.session.request(route.method, path, headers=good) as response:
            assert (response.status == 403) == (route.access is Access.ADMIN), route.name


@pytest.mark.parametrize(
    ("path", "allowed"),
    [("/v1/responses/input_tokens", {"POST"}), ("/v1/responses/x", {"GET", "DELETE"})],
)
async def test_other_methods_of_overlapping_paths_are_told_apart(
    stack: Stack, path: str, allowed: set[str]
) -> None:
    front = await stack.front()
    async with front.session.put(path) as response:
        assert response.status == 405
        assert set(response.headers["Allow"].replace(" ", "").split(",")) == allowed
