"""Clients who all come at once, and with long prompts."""

from __future__ import annotations

import asyncio
import gc
import json
import select
import socket
import tracemalloc
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from relais_testing.builders import MODEL
from relais_testing.stack import Stack
from relais_testing.waiting import wait_until

ARRIVALS = 500
LONG = "tell me more " * 16_000
STREAMS = 8


def somaxconn() -> int:
    path = Path("/proc/sys/net/core/somaxconn")
    return int(path.read_text()) if path.exists() else 128


@pytest.mark.skipif(somaxconn() < ARRIVALS, reason="this system lets fewer wait to be accepted")
async def test_clients_that_arrive_at_once_are_all_let_in(stack: Stack) -> None:
    front = await stack.front()
    poll = select.poll()
    sockets = [socket.socket() for _ in range(ARRIVALS)]
    try:
        # This loop accepts nobody until it turns. Past the backlog a connection would not be answered at all.
        for sock in sockets:
            sock.setblocking(False)
            sock.connect_ex(("127.0.0.1", front.port))
            poll.register(sock, select.POLLOUT)
        assert len(poll.poll(0)) == ARRIVALS
    finally:
        for sock in sockets:
            sock.close()


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    ("path", "prompt"),
    [
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": LONG}]}),
        ("/v1/completions", {"prompt": LONG}),
    ],
)
async def test_long_prompt_takes_no_memory_while_its_answer_comes(
    stack: Stack, path: str, prompt: dict[str, Any], stream: bool
) -> None:
    front = await stack.front(KEEPALIVE_S="60")
    body = json.dumps({"model": MODEL, "stream": stream, **prompt}).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: relais\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    request = head.encode() + body
    async with AsyncExitStack() as clients:
        tracemalloc.start()
        clients.callback(tracemalloc.stop)
        connections = [
            await asyncio.open_connection("127.0.0.1", front.port) for _ in range(STREAMS)
        ]
        for _, writer in connections:
            clients.callback(writer.transport.abort)
            writer.write(request)
        await wait_until(partial(all_wait, stack))
        # Both ends of a stream fit in that; a prompt has 200 KB.
        await wait_until(lambda: held() < STREAMS * 40_000, every_s=0.1)


async def all_wait(stack: Stack) -> bool:
    return (await stack.store.intake.depth(MODEL)).waiting == STREAMS


def held() -> int:
    """Bytes that this process has taken since `tracemalloc` was started, and not let go of."""
    gc.collect()
    return tracemalloc.get_traced_memory()[0]
