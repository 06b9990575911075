"""Large JSON is made while its client takes it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from relais_common.jobs.errors import ServerBusy, TooManyBytes
from relais_orchestrator.http.held import HELD, HOLDER, HeldBytes
from relais_orchestrator.http.large_answers import PIECE_BYTES, send_json
from relais_testing.waiting import wait_until

ROW = b"[" + b"0," * 4000 + b"0]"
ROWS = 8000  # 64 MB, more than sockets of loopback take in
HOLDS = 1000


async def test_no_more_is_made_than_the_client_takes() -> None:
    made = 0
    held = HeldBytes(HOLDS)

    def rows() -> Iterator[bytes]:
        nonlocal made
        for _ in range(ROWS):
            made += 1
            yield ROW

    async def answer(request: web.Request) -> web.StreamResponse:
        return await send_json(request, rows(), holds_bytes=HOLDS)

    app = web.Application()
    app[HELD] = held
    app.add_routes([web.get("/", answer)])
    async with TestServer(app, handler_cancellation=True) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port, limit=4096)
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        before = -1

        async def stands_still() -> bool:
            nonlocal before
            before, seen = made, before
            return 0 < made == seen

        await wait_until(stands_still, every_s=0.5)
        assert made < ROWS
        assert _is_full(held)
        writer.transport.abort()
        await wait_until(lambda: not _is_full(held))
    del reader


async def test_a_key_with_many_answers_leaves_others_their_turns() -> None:
    made: list[str] = []
    many, pieces = 40, 30

    def rows(key_id: str) -> Iterator[bytes]:
        for _ in range(pieces):
            made.append(key_id)
            yield bytes(PIECE_BYTES)

    async def answer(request: web.Request) -> web.StreamResponse:
        request[HOLDER] = key_id = request.query["key"]
        return await send_json(request, rows(key_id), holds_bytes=1)

    app = web.Application()
    app[HELD] = HeldBytes(HOLDS)
    app.add_routes([web.get("/", answer)])

    async def fetch(client: TestClient[web.Request, web.Application], key_id: str) -> None:
        async with client.get("/", params={"key": key_id}) as response:
            await response.read()

    async with TestClient(TestServer(app)) as client, asyncio.TaskGroup() as tasks:
        for _ in range(many):
            tasks.create_task(fetch(client, "attacker"))
        await wait_until(lambda: made.count("attacker") > many)
        tasks.create_task(fetch(client, "victim"))
    first = made.index("victim")
    last = len(made) - 1 - made[::-1].index("victim")
    # One of the other key's pieces between two of its own; in the turns of answers there would be forty.
    assert made[first:last].count("attacker") <= 4 * pieces


def _is_full(held: HeldBytes) -> bool:
    try:
        with held.of("", 1):
            return False
    except TooManyBytes:
        return True


def test_keys_hold_what_they_may_and_give_it_back() -> None:
    held = HeldBytes(100)
    with held.of("one", 60) as first:
        first.add(40)
        assert _refusal(held, "one", 1) == "too_many_bytes"
        with held.of("two", 100), held.of("three", 100), held.of("four", 100):
            assert _refusal(held, "five", 1) == "server_busy"
        assert _refusal(held, "five", 1) is None
    # What is larger than all that a key may hold passes alone.
    assert _refusal(held, "one", 1000) is None


def _refusal(held: HeldBytes, key_id: str, size: int) -> str | None:
    try:
        with held.of(key_id, size):
            return None
    except (TooManyBytes, ServerBusy) as error:
        return error.code
