"""What becomes of a handler's exceptions."""

from __future__ import annotations

import asyncio
import logging

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from relais_orchestrator.http.problems import problems
from relais_orchestrator.streams.sse import EventStream


async def test_client_that_leaves_between_two_writes_is_no_error_of_ours(
    caplog: pytest.LogCaptureFixture,
) -> None:
    over = asyncio.Event()

    async def stream(request: web.Request) -> web.StreamResponse:
        out = EventStream(request, write_timeout_s=5)
        await out.begin()
        await out.write(b"data: one\n\n")
        try:
            # What the loop sees of a client that has gone, before it cancels the handler.
            assert request.transport is not None
            request.transport.abort()
            await out.write(b"data: two\n\n")
        finally:
            over.set()
        return out.response

    app = web.Application(middlewares=[web.middleware(problems)])
    app.add_routes([web.get("/", stream)])
    async with TestServer(app) as server, aiohttp.ClientSession() as session:
        with pytest.raises(aiohttp.ClientError):
            async with session.get(server.make_url("/")) as response:
                await response.read()
        await over.wait()
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []
