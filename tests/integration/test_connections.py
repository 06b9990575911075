"""What connections may cost: silence, trickles, bytes that nobody reads, and their number. Others never notice."""

from __future__ import annotations

import asyncio
import gc
import gzip
import json
import logging
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import cast

import pytest
from aiohttp import StreamReader

from relais_common.runtime.connections import READ_BYTES_PER_TURN, UNSENT_BYTES, BoundedConnection
from relais_testing.keys import KeyFile, bearer
from relais_testing.stack import Front, Stack, chat_request
from relais_testing.waiting import wait_until

ONE, TWO = bearer("one"), bearer("two")
NO_PROXY = {"FORWARDED_ALLOW_IPS": "192.0.2.1"}


@pytest.fixture
def key_file(tmp_path: Path) -> KeyFile:
    return KeyFile(tmp_path / "keys.json", one={}, two={})


@asynccontextmanager
async def connection(
    front: Front, *sent: bytes
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", front.port)
    try:
        writer.write(b"".join(sent))
        await writer.drain()
        yield reader, writer
    finally:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


async def everything(reader: asyncio.StreamReader) -> bytes:
    """What comes until the server closes."""
    try:
        return await reader.read()
    except ConnectionError:
        return b""


def code_of(answer: bytes) -> str:
    code: str = json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"]
    return code


def head(start: str, *headers: str, **also: str) -> bytes:
    lines = [start, "Host: x", *headers, *(f"{name}: {value}" for name, value in also.items())]
    return "\r\n".join([*lines, "", ""]).encode()


def upload(size: int, **headers: str) -> bytes:
    return head("POST /v1/requests HTTP/1.1", f"Content-Length: {size}", **headers)


async def test_silent_connections_are_closed_whatever_part_of_a_head_they_sent(
    stack: Stack,
) -> None:
    front = await stack.front(IDLE_TIMEOUT_S="2")
    whole = head("GET /healthz HTTP/1.1")
    async with AsyncExitStack() as opened:
        readers = [
            (await opened.enter_async_context(connection(front, sent)))[0]
            for sent in (b"", b"GET /v1/mo", whole[:-2], whole, whole + whole[:9])
        ]
        answers = await asyncio.gather(*map(everything, readers))
    assert [answer.count(b"200 OK") for answer in answers] == [0, 0, 0, 1, 1]


async def test_a_body_that_trickles_is_408_and_its_connection_is_closed(stack: Stack) -> None:
    front = await stack.front(BODY_TIMEOUT_S="0.5")
    async with connection(front, upload(1000), b'{"model"') as (reader, _):
        answer = await everything(reader)
    assert b" 408 " in answer
    assert code_of(answer) == "request_timeout"


async def test_bodies_of_one_key_that_stay_unfinished_leave_room_for_the_others(
    stack: Stack, key_file: KeyFile
) -> None:
    limits = {"MAX_BODY_BYTES": "100000", "MAX_HELD_BYTES_PER_KEY": "200000"}
    front = await stack.front(**key_file.settings, **limits)
    part = b" " * 60_000
    async with AsyncExitStack() as opened:
        for _ in range(3):
            await opened.enter_async_context(connection(front, upload(100_000, **ONE), part))

        async def is_refused() -> bool:
            async with connection(front, upload(100_000, **ONE), part) as (reader, _):
                answer = await everything(reader)
            assert b"\r\nRetry-After: " in answer
            return b" 429 " in answer and code_of(answer) == "too_many_bytes"

        await wait_until(is_refused)
        await front.submit(chat_request(), **TWO)
    # Those that gave up hold nothing.
    await wait_until(partial(_takes, front, part))


async def _takes(front: Front, part: bytes) -> bool:
    body = json.dumps(chat_request()).encode() + part
    async with front.post("/v1/requests", body, headers=ONE) as response:
        return bool(response.status == 202)


async def test_an_answer_that_nobody_reads_is_dropped(stack: Stack) -> None:
    front = await stack.front(WRITE_TIMEOUT_S="0.5")
    # So many that no socket buffer holds their answers.
    asked = head("GET /openapi.json HTTP/1.1") * 100
    async with connection(front, asked) as (reader, writer):
        cast(asyncio.Transport, writer.transport).pause_reading()

        async def is_cut() -> bool:
            try:
                writer.write(asked[:1])
                await writer.drain()
            except ConnectionError:
                return True
            return writer.is_closing()

        await wait_until(is_cut)
    del reader


async def test_connections_of_an_address_are_bounded_and_free_when_they_end(stack: Stack) -> None:
    front = await stack.front(MAX_CONNECTIONS_PER_ADDRESS="3", **NO_PROXY)
    async with AsyncExitStack() as opened:
        for _ in range(3):
            reader, _ = await opened.enter_async_context(
                connection(front, head("GET /healthz HTTP/1.1"))
            )
            assert b"200" in await reader.readline()
        async with connection(front) as (reader, _):
            answer = await everything(reader)
        assert b" 503 " in answer
        assert code_of(answer) == "too_many_connections"

    async def is_served() -> bool:
        async with connection(front, head("GET /healthz HTTP/1.1", "Connection: close")) as one:
            return b" 200 " in await everything(one[0])

    await wait_until(is_served)


async def test_a_proxy_stands_for_many_clients_and_all_connections_are_bounded(
    stack: Stack,
) -> None:
    front = await stack.front(MAX_CONNECTIONS_PER_ADDRESS="1", MAX_CONNECTIONS="3")
    async with AsyncExitStack() as opened:
        for _ in range(3):
            reader, _ = await opened.enter_async_context(
                connection(front, head("GET /healthz HTTP/1.1"))
            )
            assert b"200" in await reader.readline()
        async with connection(front) as (reader, _):
            assert code_of(await everything(reader)) == "too_many_connections"


@pytest.mark.parametrize("target", ["/v1/requests", "/nowhere", "/healthz", "/v1/admin/queues"])
async def test_compressed_bodies_are_refused_unread_with_no_key(
    stack: Stack, key_file: KeyFile, target: str
) -> None:
    front = await stack.front(**key_file.settings)
    bomb = gzip.compress(bytes(8 << 20))
    for method in ("GET", "POST"):
        start = f"{method} {target} HTTP/1.1"
        length, encoding = f"Content-Length: {len(bomb)}", "Content-Encoding: gzip"
        asked = head(start, length, encoding, "Connection: close")
        async with connection(front, asked, bomb) as (reader, _):
            answer = await everything(reader)
        assert b" 405 " in answer or (
            b" 415 " in answer and code_of(answer) == "unsupported_media_type"
        )


async def test_no_body_is_asked_for_without_a_key(stack: Stack, key_file: KeyFile) -> None:
    front = await stack.front(**key_file.settings)
    wait = "Expect: 100-continue"
    body = json.dumps(chat_request()).encode()
    async with connection(
        front, upload(len(body), Expect="100-continue", Connection="close")
    ) as one:
        answer = await everything(one[0])
    assert answer.startswith(b"HTTP/1.1 401 ")
    asked = head(
        "POST /v1/requests HTTP/1.1",
        wait,
        f"Content-Length: {len(body)}",
        "Connection: close",
        **ONE,
    )
    async with connection(front, asked) as (reader, writer):
        assert await reader.readline() == b"HTTP/1.1 100 Continue\r\n"
        writer.write(body)
        assert b" 202 " in await everything(reader)


async def answered_at(reader: asyncio.StreamReader) -> tuple[bytes, bool]:
    """The head of the next answer, whose body is read, and whether it says that the connection is closed."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = next(line for line in head.split(b"\r\n") if line.startswith(b"Content-Length: "))
    await reader.readexactly(int(length.partition(b": ")[2]))
    return head, b"\r\nConnection: close\r\n" in head


LARGE = 200_000
"""Over this test's `MAX_BODY_BYTES`, and more than is dropped before a next request."""


@pytest.mark.parametrize(
    ("status", "headers"),
    [
        (401, [f"Content-Length: {LARGE}"]),
        (401, ["Content-Length: 9", "Expect: 100-continue"]),
        (401, ["Transfer-Encoding: chunked"]),
        (413, [f"Content-Length: {LARGE}", f"Authorization: {ONE['Authorization']}"]),
        (415, [f"Content-Length: {LARGE}", "Content-Encoding: gzip"]),
        (
            415,
            [f"Content-Length: {LARGE}", "Content-Type: text/plain", *map(": ".join, ONE.items())],
        ),
    ],
)
async def test_an_answer_before_its_large_body_says_that_the_connection_closes(
    stack: Stack, key_file: KeyFile, status: int, headers: list[str]
) -> None:
    front = await stack.front(**key_file.settings, MAX_BODY_BYTES="100000")
    async with connection(front, head("POST /v1/responses HTTP/1.1", *headers)) as (reader, writer):
        told, closes = await answered_at(reader)
        assert b" %d " % status in told
        assert closes
        writer.write_eof()
        assert await everything(reader) == b""


async def test_a_connection_outlives_a_refusal_whose_body_is_small_or_read(
    stack: Stack, key_file: KeyFile
) -> None:
    front = await stack.front(**key_file.settings)
    asked = head("GET /healthz HTTP/1.1")
    for key, body in (({}, b"x" * 60_000), (ONE, b"no json"), (ONE, b" " * LARGE)):
        async with connection(front, upload(len(body), **key)) as (reader, writer):
            if not key:
                # The answer comes first.
                assert not (await answered_at(reader))[1]
            writer.write(body)
            if key:
                assert not (await answered_at(reader))[1]
            writer.write(asked)
            assert b" 200 " in (await answered_at(reader))[0]


@pytest.mark.parametrize("target", ["/v1/requests", "/nowhere", "/healthz"])
async def test_another_expectation_is_417_and_no_error_of_ours(
    front: Front, caplog: pytest.LogCaptureFixture, target: str
) -> None:
    asked = head(f"GET {target} HTTP/1.1", "Expect: x", "Connection: close")
    async with connection(front, asked) as (reader, _):
        answer = await everything(reader)
    assert b" 417 " in answer
    assert code_of(answer) == "expectation_failed"
    assert b"\r\nX-Request-Id: " in answer
    assert [one for one in caplog.records if one.levelno >= logging.ERROR] == []


async def test_uploads_at_once_are_read_in_turns(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    front = await stack.front()
    received = BoundedConnection.data_received
    now, most, total = 0, 0, 0

    def count(connection: BoundedConnection, data: bytes) -> None:
        nonlocal now, total
        now, total = now + len(data), total + len(data)
        received(connection, data)

    monkeypatch.setattr(BoundedConnection, "data_received", count)
    async with AsyncExitStack() as opened:
        writers = []
        for _ in range(20):
            _, writer = await opened.enter_async_context(connection(front, upload(1_000_000)))
            writers.append(writer)
        for _ in range(100):
            await asyncio.sleep(0)
        for writer in writers:
            writer.write(b" " * 500_000)
        while total < 20 * 500_000:
            await asyncio.sleep(0)
            most, now = max(most, now), 0
    assert most < READ_BYTES_PER_TURN + (256 << 10)


async def test_body_of_tiny_chunks_is_parsed_in_several_turns(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    front = await stack.front()
    begin = StreamReader.begin_http_chunk_receiving
    now, most, chunks = 0, 0, 40_000

    def count(reader: StreamReader) -> None:
        nonlocal now
        now += 1
        begin(reader)

    monkeypatch.setattr(StreamReader, "begin_http_chunk_receiving", count)
    request = head("POST /v1/requests HTTP/1.1", **{"Transfer-Encoding": "chunked"})
    tiny = request + b"1\r\nx\r\n" * chunks + b"0\r\n\r\n"
    async with connection(front, tiny) as (reader, _):
        answered = asyncio.create_task(reader.readline())
        while not answered.done():
            await asyncio.sleep(0)
            most, now = max(most, now), 0
        assert b" 400 " in await answered
    assert most < chunks / 4


async def test_a_flood_of_one_key_delays_another_key_by_little(
    stack: Stack, key_file: KeyFile
) -> None:
    front = await stack.front(**key_file.settings)
    async with AsyncExitStack() as opened:
        flood = [await opened.enter_async_context(connection(front)) for _ in range(200)]
        reader, writer = await opened.enter_async_context(connection(front))
        for _, sender in flood:
            sender.write(head("GET /v1/models HTTP/1.1", **ONE))
        answered = [asyncio.create_task(one.readline()) for one, _ in flood]
        # Behind all of them, as the system hands them over.
        await asyncio.sleep(0)
        writer.write(head("GET /v1/models HTTP/1.1", **TWO))
        assert b" 200 " in await reader.readline()
        assert sum(task.done() for task in answered) < 150
        assert all(b" 200 " in line for line in await asyncio.gather(*answered))


async def test_the_system_holds_little_of_an_answer_that_nobody_reads(stack: Stack) -> None:
    front = await stack.front()
    async with connection(front) as (_, writer):
        ours = writer.get_extra_info("sockname")
        (accepted,) = [
            one
            for one in gc.get_objects()
            # Not `isinstance`: it asks an object for its `__class__`, and some warn at that.
            if issubclass(type(one), asyncio.Transport) and one.get_extra_info("peername") == ours
        ]
        option = socket.TCP_NOTSENT_LOWAT
        held = accepted.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, option)
        assert held == UNSENT_BYTES
