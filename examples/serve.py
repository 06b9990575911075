"""Serve `browser.html`, and pass what it asks on to orchestrators: without CORS headers they must share its origin.

    python examples/serve.py http://127.0.0.1:8080 http://127.0.0.1:8081

The page sees the first as /0, the second as /1, and chooses between them itself: this program passes the death of a
server on as it is.
"""

from __future__ import annotations

import argparse
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from urllib.parse import urlencode

import aiohttp
from aiohttp import web
from yarl import URL

PAGE = Path(__file__).with_name("browser.html")
REQUEST_HEADERS = ("Authorization", "Content-Type", "Idempotency-Key", "Last-Event-ID")
RESPONSE_HEADERS = ("Content-Type", "Cache-Control", "Retry-After", "X-Request-Id")
MAX_BODY_BYTES = 4 << 20

SERVERS: web.AppKey[Sequence[str]] = web.AppKey("servers", Sequence[str])
SESSION: web.AppKey[aiohttp.ClientSession] = web.AppKey("session", aiohttp.ClientSession)


def make_app(servers: Sequence[str]) -> web.Application:
    """The page at `/`, each server under its number."""
    app = web.Application(client_max_size=MAX_BODY_BYTES)
    app[SERVERS] = [server.rstrip("/") for server in servers]
    app.cleanup_ctx.append(_session)
    app.router.add_get("/", _to_page)
    app.router.add_get("/browser.html", _page)
    app.router.add_route("*", r"/{server:\d+}/v1/{rest:.+}", _forward)
    return app


async def _session(app: web.Application) -> AsyncIterator[None]:
    # Streams last as long as they last.
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=5)
    async with aiohttp.ClientSession(timeout=timeout) as app[SESSION]:
        yield


async def _to_page(request: web.Request) -> web.Response:
    servers = [("url", f"/{number}") for number in range(len(request.app[SERVERS]))]
    raise web.HTTPFound(f"/browser.html?{urlencode(servers)}")


async def _page(request: web.Request) -> web.FileResponse:
    return web.FileResponse(PAGE, headers={"Cache-Control": "no-store"})


async def _forward(request: web.Request) -> web.StreamResponse:
    number = int(request.match_info["server"])
    if number >= len(request.app[SERVERS]):
        raise web.HTTPNotFound
    path = request.raw_path.removeprefix(f"/{request.match_info['server']}")
    response = web.StreamResponse()
    try:
        async with request.app[SESSION].request(
            request.method,
            URL(request.app[SERVERS][number] + path, encoded=True),
            headers=_some(request.headers, REQUEST_HEADERS),
            data=await request.read(),
        ) as answer:
            response.set_status(answer.status)
            response.headers.update(_some(answer.headers, RESPONSE_HEADERS))
            await response.prepare(request)
            async for chunk in answer.content.iter_any():
                await response.write(chunk)
    except aiohttp.ClientError as error:
        if not response.prepared:
            return web.Response(status=502, text=f"server {number} does not answer: {error}")
        # What broke off there breaks off here.
        if request.transport is not None:
            request.transport.abort()
    return response


def _some(headers: Mapping[str, str], names: Sequence[str]) -> dict[str, str]:
    return {name: headers[name] for name in names if name in headers}


def main() -> None:
    parser = argparse.ArgumentParser(description="Serve browser.html in front of orchestrators.")
    parser.add_argument("servers", nargs="*", default=["http://127.0.0.1:8080"])
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8090)
    options = parser.parse_args()
    # A browser that leaves takes its stream from the server with it.
    web.run_app(
        make_app(options.servers),
        host=options.host,
        port=options.port,
        access_log=None,
        handler_cancellation=True,
    )


if __name__ == "__main__":
    main()
