"""Connections that are slow, silent or odd."""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress

import orjson

from benchmarks.attacking.attacker import FAULTS, Attacker, head
from benchmarks.attacking.keys import ATTACKERS, VECTORS
from relais_testing.process_stack import MODEL

UPLOAD = 4_000_000


async def unread_vectors(attacker: Attacker) -> None:
    """Two hundred clients, of three keys, ask for vectors of 2.6 MB and read nothing of them."""
    body = {"model": VECTORS, "input": [f"text {number}" for number in range(2048)]}
    channels = []
    for key in ATTACKERS:
        status, answer = await attacker.send("/v1/requests", body, key=key)
        if status == 202:
            channels.append((key, orjson.loads(answer)["channel_id"]))
    await asyncio.sleep(min(5.0, attacker.left_s / 3))
    sockets: list[socket.socket] = []
    with attacker.holding(sockets):
        for number in range(200):
            if not channels:
                break
            key, channel = channels[number % len(channels)]
            with suppress(*FAULTS):
                sock = await attacker.connect(small_buffer=True)
                sockets.append(sock)
                request = head(f"/v1/channels/{channel}/vectors", key, method="GET")
                await asyncio.get_running_loop().sock_sendall(sock, request)
        await attacker.rest()


async def unfinished_uploads(attacker: Attacker) -> None:
    """A hundred uploads of 4 MB, of three keys, whose last byte never comes."""
    loop = asyncio.get_running_loop()
    body = b'{"model":"' + MODEL.encode() + b'","prompt":"' + b"a" * UPLOAD
    sockets: list[socket.socket] = []

    async def upload(number: int) -> None:
        with suppress(*FAULTS):
            sock = await attacker.connect()
            sockets.append(sock)
            key = ATTACKERS[number % len(ATTACKERS)]
            await loop.sock_sendall(sock, head("/v1/requests", key, len(body) + 100))
            await loop.sock_sendall(sock, body)

    with attacker.holding(sockets):
        await attacker.over_and_over(upload, at_once=10, most=100)
        await attacker.rest()


async def silent_sockets(attacker: Attacker) -> None:
    """Two thousand connections that send nothing, or half a header."""
    loop = asyncio.get_running_loop()
    sockets: list[socket.socket] = []

    async def connect(number: int) -> None:
        with suppress(*FAULTS):
            sock = await attacker.connect()
            sockets.append(sock)
            if number % 2:
                await loop.sock_sendall(sock, b"GET /healthz HTTP/1.1\r\nHost: rel")

    with attacker.holding(sockets):
        await attacker.over_and_over(connect, at_once=50, most=2000)
        await attacker.rest()


def _odd() -> list[bytes]:
    chat = "/v1/chat/completions"
    key = ATTACKERS[0]
    host = b"Host: relais\r\n"
    return [
        head(chat, None, 5, Expect="x") + b"{}",
        head(chat, key, 5, Expect="100-continue, x") + b"{}   ",
        head(chat, key, Transfer_Encoding="chunked") + b"ffffffffffffffff\r\n",
        head(chat, key, Transfer_Encoding="chunked") + b"-1\r\n\r\n",
        head(chat, key, 4, Transfer_Encoding="chunked") + b"0\r\n\r\nGET /metrics HTTP/1.1\r\n\r\n",
        head(chat, key, Content_Length="-1"),
        head(chat, key, Content_Length="9" * 40),
        head(chat, key, 3, Content_Encoding="br") + b"abc",
        head(chat, key, 3, Content_Encoding="gzip") + b"abc",
        head("//x/metrics", None, method="GET"),
        head("/v1/channels/%00/events", key, method="GET"),
        head("/" + "a" * 60_000, None, method="GET"),
        head("/healthz", None, method="GET", Cookie="a" * 60_000),
        head("/healthz?" + "a&" * 3000, None, method="GET"),
        b"GET /healthz HTTP/1.1\r\n" + host + b"X: y\r\n" * 5000 + b"\r\n",
        b"GET /healthz HTTP/1.1\r\n" + host + b"Host: another\r\n\r\n",
        b"GET /healthz HTTP/9.9\r\n" + host + b"\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(100),
        b"GET http://elsewhere/metrics HTTP/1.1\r\n" + host + b"\r\n",
        b"CONNECT elsewhere:443 HTTP/1.1\r\n" + host + b"\r\n",
        b"\xff\xfe" * 400 + b"\r\n\r\n",
        head("/healthz", None, method="GET", Upgrade="websocket", Connection="Upgrade"),
    ]


async def odd_http(attacker: Attacker) -> None:
    """Requests that break HTTP's rules: lengths, encodings, headers, other protocols."""
    odd = _odd()

    async def one(number: int) -> None:
        await attacker.raw(odd[number % len(odd)], wait_s=2.0)

    await attacker.over_and_over(one, at_once=20)


async def pipelined(attacker: Attacker) -> None:
    """A thousand requests in one packet, over and over, and none of their answers is read."""
    loop = asyncio.get_running_loop()
    sent = head("/openapi.json", None, method="GET") * 500 + head("/v1/models", ATTACKERS[0]) * 500
    sockets: list[socket.socket] = []

    async def one(_: int) -> None:
        with suppress(*FAULTS):
            sock = await attacker.connect(small_buffer=True)
            sockets.append(sock)
            async with asyncio.timeout(5):
                await loop.sock_sendall(sock, sent)

    with attacker.holding(sockets):
        await attacker.over_and_over(one, at_once=20, most=100)
        await attacker.rest()
