"""Images that are fetched: only from allowed hosts with public addresses, within bounds."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from relais_common.jobs.errors import InvalidRequest
from relais_orchestrator.submission import image_urls
from relais_orchestrator.submission.image_urls import ImageFetcher
from relais_testing.builders import MODEL
from relais_testing.stack import Stack

PNG = b"\x89PNG\r\n\x1a\n" + bytes(40)
PATH = "messages.0.content.1"


@pytest.fixture
async def server() -> AsyncIterator[TestServer]:
    async def answer(request: web.Request) -> web.StreamResponse:
        match request.path:
            case "/png":
                return web.Response(body=PNG, content_type="text/html")
            case "/text":
                return web.Response(body=b"secret")
            case "/here":
                return web.Response(status=302, headers={"Location": "/png"})
            case "/out":
                return web.Response(status=302, headers={"Location": "http://example.org/png"})
            case "/round":
                return web.Response(status=302, headers={"Location": "/round"})
            case "/large":
                return web.Response(body=PNG + bytes(2000))
            case "/slow":
                await asyncio.sleep(3600)
        return web.Response(status=404)

    app = web.Application()
    app.router.add_get("/{name}", answer)
    server = TestServer(app, host="127.0.0.1")
    await server.start_server()
    yield server
    await server.close()


def fetcher(server: TestServer, *, allow_private: bool = True) -> ImageFetcher:
    host = f"{server.host}:{server.port}"
    return ImageFetcher([host], max_bytes=1000, allow_private=allow_private)


@pytest.mark.parametrize("name", ["png", "here"])
async def test_an_image_comes_as_a_data_url_of_the_type_that_it_is(
    server: TestServer, name: str
) -> None:
    fetched = await fetcher(server).fetch("a-key", {PATH: str(server.make_url(f"/{name}"))})
    assert fetched == {PATH: f"data:image/png;base64,{base64.b64encode(PNG).decode()}"}


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("text", "not PNG"),
        ("out", "from there"),
        ("round", "redirects"),
        ("large", "too large"),
        ("absent", "404"),
        ("slow", "more than"),
    ],
)
async def test_what_is_not_fetched_is_refused_by_name(
    server: TestServer, monkeypatch: pytest.MonkeyPatch, name: str, why: str
) -> None:
    if name == "slow":
        monkeypatch.setattr(image_urls, "TIMEOUT_S", 0.3)
    with pytest.raises(InvalidRequest, match=why) as refused:
        await fetcher(server).fetch("a-key", {PATH: str(server.make_url(f"/{name}"))})
    assert refused.value.param == PATH
    assert "secret" not in refused.value.message


async def test_images_of_a_request_are_bounded_together(server: TestServer) -> None:
    addresses = {f"messages.0.content.{at}": str(server.make_url("/png")) for at in range(30)}
    with pytest.raises(InvalidRequest, match="too large"):
        await fetcher(server).fetch("a-key", addresses)


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "localhost", "[::1]", "10.0.0.1", "169.254.169.254", "[::ffff:127.0.0.1]"],
)
async def test_private_addresses_are_refused_whatever_the_setting(
    server: TestServer, host: str
) -> None:
    one = ImageFetcher([f"{host}:{server.port}", host.strip("[]")], max_bytes=1000)
    with pytest.raises(InvalidRequest) as refused:
        await one.fetch("a-key", {PATH: f"http://{host}:{server.port}/png"})
    assert refused.value.param == PATH


@pytest.mark.usefixtures("worker")
async def test_a_request_is_queued_with_the_bytes(stack: Stack, server: TestServer) -> None:
    front = await stack.front(IMAGE_URL_HOSTS="images.example.org")
    front.parts.images._fetcher = fetcher(server)

    async def said(address: str) -> str:
        part = {"type": "image_url", "image_url": {"url": address}}
        body = {"model": MODEL, "messages": [{"role": "user", "content": [part]}]}
        async with front.post("/v1/chat/completions", body) as response:
            answer = await response.json()
            return str(answer["choices"][0]["message"]["content"])

    data = f"data:image/png;base64,{base64.b64encode(PNG).decode()}"
    assert await said(str(server.make_url("/png"))) == await said(data)
