"""Reading, guessing and being refused."""

from __future__ import annotations

import asyncio
import random
import socket
from contextlib import suppress

import orjson

from benchmarks.attacking.attacker import FAULTS, Attacker, head
from benchmarks.attacking.keys import ATTACKERS, OPERATOR
from relais_testing.process_stack import MODEL


async def _long_channel(attacker: Attacker, tokens: int) -> str:
    params = {"max_tokens": tokens}
    body = {"model": MODEL, "prompt": "read me", "params": params, "deadline_s": 20}
    status, answer = await attacker.send("/v1/requests", body)
    channel: str = orjson.loads(answer)["channel_id"] if status == 202 else "none"
    return channel


async def slow_streams(attacker: Attacker) -> None:
    """Five hundred readers of one stream who take a byte a second."""
    channel = await _long_channel(attacker, 2000)
    request = head(f"/v1/channels/{channel}/events", ATTACKERS[0], method="GET")
    loop = asyncio.get_running_loop()
    sockets: list[socket.socket] = []

    async def open_one(_: int) -> None:
        with suppress(*FAULTS):
            sock = await attacker.connect(small_buffer=True)
            sockets.append(sock)
            await loop.sock_sendall(sock, request)

    with attacker.holding(sockets):
        await attacker.over_and_over(open_one, at_once=20, most=500)
        while attacker.left_s:
            for sock in sockets:
                with suppress(OSError):
                    sock.recv(1)
            await asyncio.sleep(1)


async def wrong_event_ids(attacker: Attacker) -> None:
    """Streams asked for with a `Last-Event-ID` that is no number, or of what has not happened yet."""
    channel = await _long_channel(attacker, 50)
    wrong = ["-1", "9" * 12, "9" * 13, "nine", "0x10", "\u0663", "5", "1e3"]

    async def one(number: int) -> None:
        headers = {"Last-Event-ID": wrong[number % len(wrong)]}
        await attacker.send(f"/v1/channels/{channel}/events", method="GET", headers=headers)

    await attacker.over_and_over(one, at_once=30)


async def lists_and_reports(attacker: Attacker) -> None:
    """Usage and KPIs over years, and the operators' lists, by a key that may and by one that may not."""
    paths = (
        "/v1/usage?since=1970-01-01",
        "/v1/usage?since=2000-01-01&until=2099-12-31",
        "/v1/kpis?since=2000-01-01T00:00:00Z",
        "/v1/models",
        "/v1/admin/queues",
        "/v1/admin/channels?limit=1000",
        "/v1/admin/dead-letters?limit=1000",
        "/v1/admin/workers",
    )
    # Twice each, so that both keys ask for it.
    requests = [(path, None) for path in paths for _ in range(2)]
    keys = (OPERATOR, ATTACKERS[0])
    await attacker.send_in_turns(requests, keys=keys, method="GET", at_once=16)


async def document(attacker: Attacker) -> None:
    """`/openapi.json`, `/docs` and `/metrics`, over and over, without a key."""
    paths = ("/openapi.json", "/metrics", "/docs", "/readyz")
    requests = [(path, None) for path in paths]
    await attacker.send_in_turns(requests, keys=[None], method="GET", at_once=16)


async def guessed_tokens(attacker: Attacker) -> None:
    """Signed URLs with tokens that were guessed, and keys that were."""
    channel = await _long_channel(attacker, 50)
    rng = random.Random(1)

    async def one(number: int) -> None:
        guess = rng.randbytes(24).hex()
        if number % 2:
            path = f"/v1/channels/{channel}/events?token={guess}.{'9' * 10}"
            await attacker.send(path, method="GET", key=None)
        else:
            await attacker.send("/v1/models", method="GET", key=guess)

    await attacker.over_and_over(one, at_once=16)


async def names_as_labels(attacker: Attacker) -> None:
    """Models, paths and methods of names that are never the same, which metrics might keep."""

    async def one(number: int) -> None:
        match number % 4:
            case 0:
                body = {"model": f"model-{number}", "prompt": "a"}
                await attacker.send("/v1/requests", body)
            case 1:
                await attacker.send(f"/v1/path-{number}", method="GET")
            case 2:
                await attacker.send("/v1/models", method=f"M{number}")
            case _:
                path = f"/v1/channels/{MODEL}.{number}/events"
                await attacker.send(path, method="GET")

    await attacker.over_and_over(one, at_once=16)


async def refused(attacker: Attacker) -> None:
    """Small requests that are refused, as many as go: no key, no JSON, no such model, no such route."""
    wrong = (b"{", b"[]", b'{"model":"none","prompt":"a"}', b'{"model":1}')

    async def one(number: int) -> None:
        key = None if number % 5 == 0 else ATTACKERS[number % len(ATTACKERS)]
        await attacker.send("/v1/requests", wrong[number % len(wrong)], key=key)

    await attacker.over_and_over(one, at_once=32)
