"""What becomes of a handler's exceptions."""

from __future__ import annotations

import asyncio
import gc
import logging
import weakref
from functools import partial

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from relais_common.jobs.errors import InvalidRequest
from relais_orchestrator.api.table import error_body_of
from relais_orchestrator.http.problems import problems
from relais_orchestrator.http.refusal_log import RefusalLog
from relais_orchestrator.streams.sse import EventStream
from relais_testing.waiting import wait_until


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

    app = web.Application(
        middlewares=[web.middleware(partial(problems, refusals=RefusalLog(), bodies=error_body_of))]
    )
    app.add_routes([web.get("/", stream)])
    async with TestServer(app) as server, aiohttp.ClientSession() as session:
        with pytest.raises(aiohttp.ClientError):
            async with session.get(server.make_url("/")) as response:
                await response.read()
        await over.wait()
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


class Body:
    """What a handler holds."""


@pytest.mark.parametrize("error", [InvalidRequest("no"), ValueError("a fault of ours")], ids=str)
async def test_a_request_that_failed_is_not_kept_until_a_collection(error: Exception) -> None:
    bodies: list[weakref.ref[Body]] = []

    async def refuse(request: web.Request) -> web.StreamResponse:
        body = Body()
        bodies.append(weakref.ref(body))
        try:
            raise error
        except (InvalidRequest, ValueError) as first:
            # From here on it is in a cycle with this frame.
            kept = first
        raise kept from None

    app = web.Application(
        middlewares=[web.middleware(partial(problems, refusals=RefusalLog(), bodies=error_body_of))]
    )
    app.add_routes([web.get("/", refuse)])
    async with TestServer(app) as server, aiohttp.ClientSession() as session:
        gc.disable()
        try:
            async with session.get(server.make_url("/")) as response:
                assert response.status in (400, 500)
            await wait_until(lambda: bodies[0]() is None)
        finally:
            gc.enable()
