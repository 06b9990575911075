"""A client that stops reading costs the others nothing, and loses nothing itself."""

from __future__ import annotations

import asyncio
import gc
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import pytest

from relais_testing.scrape import scrape
from relais_testing.sse_client import ids_of, read_events, text_of
from relais_testing.stack import Front, Stack, answer_to, chat_request
from relais_testing.waiting import wait_until

TOKENS = 20_000
MOST_BUFFERED_BYTES = 56 << 10
"""Less than a transport takes by default before it says that it is full: what comes meanwhile waits in one copy."""


@asynccontextmanager
async def lazy_client(front: Front, path: str) -> AsyncIterator[socket.socket]:
    """Asks for a stream and reads nothing of it; the sockets hold next to nothing either."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.setblocking(False)
    loop = asyncio.get_running_loop()
    try:
        await loop.sock_connect(client, ("127.0.0.1", front.port))
        # Or the system itself takes in megabytes on the server's behalf.
        transport = await wait_until(partial(server_side, client))
        assert transport is not None
        server_socket = transport.get_extra_info("socket")
        server_socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        await loop.sock_sendall(client, f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        yield client
    finally:
        client.close()


def server_side(client: socket.socket) -> asyncio.Transport | None:
    """The server's end of a client's connection, while it is open."""
    for one in gc.get_objects():
        if (
            isinstance(one, asyncio.Transport)
            and not one.is_closing()
            and one.get_extra_info("peername") == client.getsockname()
        ):
            return one
    return None


async def read_to_the_end(client: socket.socket) -> bytes:
    received = b""
    try:
        while chunk := await asyncio.get_running_loop().sock_recv(client, 1 << 20):
            received += chunk
    except ConnectionResetError:
        pass
    return received


def last_id(received: bytes) -> int:
    """The id of the last event that arrived whole."""
    ids = [
        frame.removeprefix(b"id: ").partition(b"\n")[0]
        for frame in received.replace(b"\r\n", b"").split(b"\n\n")[:-1]
        if frame.startswith(b"id: ")
    ]
    return int(ids[-1])


async def test_reader_that_stops_is_cut_off_with_little_buffered_and_can_resume(
    stack: Stack,
) -> None:
    front = await stack.front(WRITE_TIMEOUT_S="0.5", KEEPALIVE_S="60")
    await stack.worker()
    slow, quick = await asyncio.gather(
        *(front.submit(chat_request(name, params={"max_tokens": TOKENS})) for name in "ab")
    )
    path = f"/v1/channels/{slow}/events"
    async with lazy_client(front, path) as client:
        transport = await wait_until(partial(server_side, client))
        assert transport is not None
        buffered: list[int] = []

        def cut_off() -> bool:
            buffered.append(transport.get_write_buffer_size())
            return transport.is_closing()

        others = asyncio.create_task(read_events(front.session, f"/v1/channels/{quick}/events"))
        await wait_until(cut_off)
        assert text_of(await others) == answer_to("b", TOKENS)
        assert max(buffered) < MOST_BUFFERED_BYTES
        received = await read_to_the_end(client)
    assert (await scrape(front.session, front.url)).of("relais_sse_slow_readers_total") == 1
    after = last_id(received)
    assert 0 < after < TOKENS
    rest = await read_events(front.session, path, after=after)
    # `queued` and `started` came before the tokens, `completed` comes after them.
    assert ids_of(rest) == list(range(after + 1, TOKENS + 4))
    assert answer_to("a", TOKENS).endswith(text_of(rest))


@pytest.mark.realtime  # a standstill is one of this very process, longer than a write may take
async def test_standstill_of_an_orchestrator_cuts_no_reader_off(stack: Stack) -> None:
    front = await stack.front(WRITE_TIMEOUT_S="1", KEEPALIVE_S="60")
    await stack.worker()
    channel_id = await front.submit(chat_request("a", params={"max_tokens": 3000}))
    await wait_until(lambda: front.is_terminal(channel_id))
    async with lazy_client(front, f"/v1/channels/{channel_id}/events") as client:
        transport = await wait_until(partial(server_side, client))
        assert transport is not None
        await wait_until(transport.get_write_buffer_size)
        time.sleep(2)  # noqa: ASYNC251 # the whole process stands still
        received = b""
        while b"event: completed" not in received:
            chunk = await asyncio.get_running_loop().sock_recv(client, 1 << 20)
            assert chunk, "it was cut off"
            received += chunk


async def test_reader_that_stops_before_the_last_byte_does_not_hold_its_request_open(
    stack: Stack,
) -> None:
    """The end of the response waits for the client as well, and no longer than a write does."""
    front = await stack.front(WRITE_TIMEOUT_S="0.5", KEEPALIVE_S="60")
    await stack.worker()
    # Short enough to be written without waiting, long enough that the last byte must wait.
    sizes = (1100, 1300, 1500)
    channels = [
        await front.submit(chat_request("a", params={"max_tokens": size})) for size in sizes
    ]
    for channel_id in channels:
        await wait_until(partial(front.is_terminal, channel_id))
    for channel_id in channels:
        async with lazy_client(front, f"/v1/channels/{channel_id}/events") as client:
            transport = await wait_until(partial(server_side, client))
            assert transport is not None
            await wait_until(transport.is_closing)
