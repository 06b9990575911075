"""Raw HTTP with random damage, reproducible by seed."""

from __future__ import annotations

import asyncio
import json
import random
import re
from collections.abc import Sequence
from contextlib import suppress

from relais_testing.tcp_ports import HOST
from relais_testing.waiting import LIVENESS_S

TOKENS = (
    b"\r\n", b"\n", b"\r", b"\0", b" ", b":", b"%00", b"%2f", b"%zz", b"//", b"/../", b"\\", b"?", b"#", b";", b"\xff",
    b"\r\n\r\n", b"0\r\n\r\n", b"-1", b"18446744073709551616", b"Content-Length: 5\r\n",
    b"Transfer-Encoding: chunked\r\n", b"Content-Encoding: gzip\r\n", b"Expect: x\r\n", b"Expect: 100-continue\r\n",
    b"Connection: close\r\n",
    b"Upgrade: websocket\r\nConnection: Upgrade\r\n", b"HTTP/1.0", b"HTTP/2.0", b"A: " + b"a" * 9000 + b"\r\n",
    b"{" * 50,
)  # fmt: skip
ANSWER = re.compile(rb"HTTP/\d\.\d (\d{3}) ")


def damaged(corpus: Sequence[bytes], chance: random.Random) -> bytes:
    """Return a request of the corpus with one to four changes."""
    request = bytearray(chance.choice(corpus))
    for _ in range(chance.randint(1, 4)):
        at = chance.randint(0, len(request))
        end = min(len(request), at + chance.randint(1, 20))
        match chance.randrange(7):
            case 0:
                request[at:at] = chance.choice(TOKENS)
            case 1:
                del request[at:end]
            case 2:
                request[at:at] = request[at:end] * chance.randint(1, 50)
            case 3:
                request[at:end] = chance.randbytes(end - at)
            case 4:
                request[at:] = chance.choice(corpus)
            case 5:
                request[at:end] = chance.choice(TOKENS)
            case 6:
                request += chance.choice(corpus)
    return bytes(request)


async def answer_to(port: int, request: bytes, split: int) -> bytes:
    """Send the request in two parts; return everything until the server closes.

    Raises:
        TimeoutError: it did not close.
    """
    reader, writer = await asyncio.open_connection(HOST, port)
    try:
        async with asyncio.timeout(LIVENESS_S):
            writer.write(request[:split])
            await writer.drain()
            writer.write(request[split:])
            await writer.drain()
            return await reader.read()
    except ConnectionError:
        return b""
    finally:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


def complaint(request: bytes, answer: bytes) -> str | None:
    """Return what is wrong with a response: it must be a clean close, or HTTP with typed refusals."""
    if not answer:
        return None
    first = ANSWER.match(answer)
    if first is None:
        return "no HTTP"
    if b"500" in ANSWER.findall(answer):
        return "an error of ours"
    if b"Traceback" in answer:
        return "a traceback"
    head, _, body = answer.partition(b"\r\n\r\n")
    length = re.search(rb"Content-Length: (\d+)", head)
    if int(first[1]) < 400 or length is None or (b"HEAD" in request and len(body) < int(length[1])):
        return None
    try:
        error = json.loads(body[: int(length[1])])["error"]
    except (ValueError, KeyError):
        return "an error without its object"
    return None if error["code"] and error["message"] else "an error without a code"
