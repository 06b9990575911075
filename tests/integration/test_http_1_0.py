"""Clients and proxies that speak HTTP/1.0, which has no chunks: a stream is over when the connection is closed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import suppress

import pytest

from relais_orchestrator.api.table import ROUTES
from relais_testing.builders import MODEL
from relais_testing.embedding_worker import open_embedding_worker
from relais_testing.stack import Front, Stack, chat_request
from relais_testing.waiting import wait_until

EMBEDDER = "embedder"
STREAMING = {
    f"{route.method} {route.template}"
    for route in ROUTES
    if any(response.events is not None for response in route.responses)
} - {"GET /v1/batches/{batch_id}/events"}
"""That one needs a database; it is written as the others are."""

IN_PIECES = {"POST /v1/embeddings", "GET /v1/channels/{channel_id}/vectors"}
KEPT = [pytest.param((), id="plain"), pytest.param(("Connection: keep-alive",), id="keep-alive")]
BODIES = {
    "/v1/chat/completions": chat_request("a", max_tokens=3, stream=True),
    "/v1/completions": {"model": MODEL, "prompt": "a", "max_tokens": 3, "stream": True},
    "/v1/embeddings": {"model": EMBEDDER, "input": ["a", "b"]},
    "/v1/messages": chat_request("a", max_tokens=3, stream=True),
    "/v1/responses": {"model": MODEL, "input": "a", "stream": True},
}
ENDS = {
    "/v1/chat/completions": b"data: [DONE]\n\n",
    "/v1/completions": b"data: [DONE]\n\n",
    "/v1/embeddings": b"}",
    "/v1/channels/{channel_id}/vectors": b"]]}",
}


@pytest.fixture
async def front(stack: Stack, redis_url: str) -> AsyncIterator[Front]:
    await stack.worker()
    async with open_embedding_worker(redis_url, model=EMBEDDER):
        yield await stack.front(EMBEDDING_MODELS=EMBEDDER)


async def exchange(front: Front, *requests: bytes) -> bytes:
    """Everything that comes until the server closes; the client never does."""
    reader, writer = await asyncio.open_connection("127.0.0.1", front.port)
    writer.write(b"".join(requests))
    try:
        return await reader.read()
    finally:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


def request(start: str, *headers: str, body: bytes = b"") -> bytes:
    lines = [f"{start} HTTP/1.0", "Host: x", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


async def filled(front: Front, path: str) -> str:
    """Return the path with the id of something that is there."""
    if "{response_id}" in path:
        body = {"model": MODEL, "input": "a", "background": True}
        async with front.post("/v1/responses", body) as response:
            return path.format(response_id=(await response.json())["id"]) + "?stream=true"
    native = chat_request("a") if path.endswith("/events") else {"model": EMBEDDER, "input": ["a"]}
    channel_id = await front.submit(native)
    await wait_until(lambda: front.is_terminal(channel_id))
    return path.format(channel_id=channel_id)


@pytest.mark.parametrize("headers", KEPT)
@pytest.mark.parametrize("route", sorted(STREAMING | IN_PIECES))
async def test_every_stream_is_written_until_the_connection_closes(
    front: Front, route: str, headers: tuple[str, ...]
) -> None:
    method, path = route.split()
    body = json.dumps(BODIES[path]).encode() if method == "POST" else b""
    target = path if method == "POST" else await filled(front, path)
    answer = await exchange(front, request(f"{method} {target}", *headers, body=body))
    head, _, rest = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.0 200 "), answer
    assert b"transfer-encoding" not in head.lower()
    assert b"keep-alive" not in head.lower()
    assert rest.startswith((b"data: ", b"event: ", b"retry: ", b"{"))
    assert rest.endswith(ENDS.get(path, b"\n\n"))


async def test_a_connection_is_kept_where_the_length_is_known(front: Front) -> None:
    kept = request("GET /v1/models", "Connection: keep-alive")
    answer = await exchange(front, kept, request("GET /v1/models"))
    assert answer.count(b"HTTP/1.0 200 ") == 2
    assert answer.lower().count(b"connection: keep-alive") == 1
