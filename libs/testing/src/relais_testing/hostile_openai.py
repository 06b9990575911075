"""A server that attacks its clients. The message names the attack, or the status of a refusal.

`PORT=8000 python -m relais_testing.hostile_openai MODEL` runs one. Everything else is answered as an OpenAI-compatible
server does, in one chunk. It speaks over bare sockets, so that nothing keeps it from breaking HTTP.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

ANSWER = "all is well"
MEBIBYTE = 1 << 20
FLOOD_BYTES = 200 * MEBIBYTE

Write = Callable[[bytes], Awaitable[None]]
Attack = Callable[[Write], Awaitable[None]]


def event(choice: dict[str, Any] | None = None, **fields: Any) -> bytes:
    choices = [] if choice is None else [{"index": 0, **choice}]
    return b"data: " + json.dumps({"choices": choices, **fields}).encode() + b"\n\n"


def text(content: Any) -> bytes:
    return event({"delta": {"content": content}})


STOP = event({"delta": {}, "finish_reason": "stop"})
DONE = b"data: [DONE]\n\n"


def head(
    status: str = "200 OK", kind: str = "text/event-stream", *more: str, length: int | None = None
) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Type: {kind}", "Connection: close", *more]
    if length is not None:
        lines.append(f"Content-Length: {length}")
    return "\r\n".join((*lines, "", "")).encode()


def says(*parts: bytes, before: bytes | None = None) -> Attack:
    async def attack(write: Write) -> None:
        await write(head() if before is None else before)
        for part in parts:
            await write(part)

    return attack


def usage(**counts: Any) -> Attack:
    return says(text(ANSWER), STOP, event(usage=counts), DONE)


def flood(first: bytes, piece: bytes, most_bytes: int = FLOOD_BYTES) -> Attack:
    """Send as much as the other side accepts, up to a bound."""

    async def attack(write: Write) -> None:
        await write(first)
        for _ in range(0, most_bytes, len(piece)):
            await write(piece)

    return attack


def refuses(status: str, body: bytes, *more: str) -> Attack:
    return says(body, before=head(status, "application/json", *more, length=len(body)))


def error(message: str, **fields: Any) -> bytes:
    return json.dumps({"error": {"message": message, **fields}}).encode()


def hold(*parts: bytes) -> Attack:
    """Send this much, and then nothing."""

    async def attack(write: Write) -> None:
        await says(*parts)(write)
        await asyncio.Event().wait()

    return attack


def trickle(first: bytes, piece: bytes) -> Attack:
    """Send slowly without end."""

    async def attack(write: Write) -> None:
        await write(head() + first)
        while True:
            await write(piece)
            await asyncio.sleep(0.05)

    return attack


async def endless_headers(write: Write) -> None:
    await write(b"HTTP/1.1 200 OK\r\n")
    for number in range(1_000_000):
        await write(b"X-%d: %b\r\n" % (number, b"x" * 1000))


def deep(depth: int = 100_000) -> bytes:
    return b"data: " + b'{"choices":' * depth + b"\n\n"


ATTACKS: dict[str, Attack] = {
    "usage_1e30": usage(prompt_tokens=1e30, completion_tokens=1e30),
    "usage_9e18": usage(prompt_tokens=9 * 10**18, completion_tokens=9e18),
    "usage_negative": usage(prompt_tokens=-5, completion_tokens=-(2**63)),
    "usage_float_and_bool": usage(prompt_tokens=1.5, completion_tokens=True),
    "usage_of_wrong_shape": usage(prompt_tokens=[], completion_tokens={}, prompt_tokens_details=7),
    "endless_error": flood(
        head("400 Bad Request", "application/json"), b'{"error": "' + b"x" * MEBIBYTE
    ),
    "endless_headers": endless_headers,
    "endless_header_line": flood(b"HTTP/1.1 200 OK\r\nX: ", b"x" * MEBIBYTE),
    "endless_line": flood(head() + b"data: ", b"x" * MEBIBYTE),
    "endless_event": flood(head(), b"data: " + b"x" * MEBIBYTE + b"\n"),
    "endless_comments": flood(head(), b":" + b"x" * MEBIBYTE + b"\n"),
    "chunks_of_a_mebibyte": flood(head(), text("x" * MEBIBYTE)),
    "tiny_chunks": flood(head(), text("x") * 1000),
    "empty_chunks": flood(head(), b"data: {}\n\n" * 10_000),
    "thoughts_without_end": flood(head(), event({"delta": {"reasoning": "x" * MEBIBYTE}})),
    "flood_after_done": flood(head() + text(ANSWER) + STOP + DONE, b"x" * MEBIBYTE),
    "flood_after_reason": flood(head() + text(ANSWER) + STOP, b":" + b"x" * MEBIBYTE + b"\n"),
    "silent_after_done": hold(text(ANSWER), STOP, DONE),
    "silent_after_text": hold(text("so far")),
    "trickled_line": trickle(b"data: ", b"x"),
    "trickled_comments": trickle(text("so far"), b":\n"),
    "redirect": says(
        before=head("307 Temporary Redirect", "text/plain", "Location: http://127.0.0.1:1/")
    ),
    "page": says(b"<html>it works</html>", before=head(kind="text/html")),
    "compressed": says(
        zlib.compress(bytes(50 * MEBIBYTE)),
        before=head("200 OK", "text/event-stream", "Content-Encoding: deflate"),
    ),
    "compressed_error": refuses(
        "400 Bad Request", zlib.compress(bytes(50 * MEBIBYTE)), "Content-Encoding: deflate"
    ),
    "deep_json": says(deep()),
    "deep_error": refuses("400 Bad Request", b'{"error":' * 5000),
    "choices_out_of_order": says(
        event({"index": 7, "delta": {"content": "other"}, "finish_reason": "stop"}),
        text(ANSWER),
        STOP,
        DONE,
    ),
    "choices_of_wrong_shape": says(
        event(), b'data: {"choices": {"0": 1}}\n\n', text(ANSWER), STOP, DONE
    ),
    "logprobs_of_wrong_shape": says(
        event({"delta": {"content": ANSWER}, "logprobs": {"content": [7]}}), STOP, DONE
    ),
    "ids_out_of_range": says(
        event({"delta": {"content": ANSWER}, "token_ids": [1e30]}, prompt_token_ids=[-1, 2**63]),
        STOP,
        DONE,
    ),
    "parts": says(
        text([{"type": "text", "text": ANSWER}, {"type": "image", "image": "x"}, 7]), STOP, DONE
    ),
    "chunked_lies": says(
        b"ffffffffffffffff\r\n" + text(ANSWER),
        before=head("200 OK", "text/event-stream", "Transfer-Encoding: chunked"),
    ),
    "no_http": says(b"hello", before=b"\x00\xff" * 1000),
    "cut": says(text("so far")),
    "error_within": says(text("so far"), b"data: " + error("at /usr/lib/secret.py") + b"\n\n"),
    "too_many_requests": refuses("429 Too Many Requests", error("slow down"), "Retry-After: 0.1"),
    "far_retry": refuses("429 Too Many Requests", error("slow down"), "Retry-After: 999999999"),
    "forbidden": refuses("403 Forbidden", error("flagged", type="moderation")),
    "wrong_key": refuses("401 Unauthorized", error("the key sk-secret-secret is wrong")),
    "not_found": refuses("404 Not Found", error("no such thing")),
    "long_message": refuses("422 Unprocessable Entity", error("ValueError: " + "x" * 50_000)),
}
"""By the word that a message says."""


def vectors(*embeddings: Any) -> bytes:
    data = [{"index": at, "embedding": one} for at, one in enumerate(embeddings)]
    return json.dumps({"data": data, "usage": {"prompt_tokens": 1}}).encode()


JSON = head(kind="application/json")
VECTOR_ATTACKS: dict[str, Attack] = {
    "endless_numbers": flood(JSON, b'{"data": [{"embedding": [' + b"1.0," * 100_000),
    "endless_base64": flood(JSON + b'{"data": [{"embedding": "', b"A" * MEBIBYTE),
    "endless_space": flood(JSON, b" " * MEBIBYTE),
    "endless_rows": flood(JSON + b'{"data": [', b'{"index": 0, "embedding": [1]},' * 10_000),
    "announced_terabyte": says(
        vectors([1.0]), before=head(kind="application/json", length=1 << 40)
    ),
    "silent_body": hold(b'{"data": ['),
    "trickled_body": trickle(b"{", b" "),
    "deep_body": says(b'{"data":' * 100_000, before=JSON),
    "nan": says(b'{"data": [{"index": 0, "embedding": [NaN]}]}', before=JSON),
    "nan_in_base64": says(vectors("AADAfwAAwH8="), before=JSON),
    "too_few": says(vectors(), before=JSON),
    "too_many": says(vectors(*[[1.0]] * 1000), before=JSON),
    "no_numbers": says(vectors(["at /usr/lib/secret.py"]), before=JSON),
    "odd_base64": says(vectors("AAAA"), before=JSON),
}
"""By the word that the first input says."""


def _word_of(body: dict[str, Any]) -> str:
    if "input" in body:
        return str(body["input"][0])
    return str(body["messages"][-1]["content"])


class HostileServer:
    """Serves one model.

    Attributes:
        listing: what `/v1/models` answers with, from its first byte; None for what is right.
        asked: attacks that were asked for, one entry a try.
    """

    def __init__(self, model: str) -> None:
        self.model = model
        self.listing: Attack | None = None
        self.asked: list[str] = []
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async def write(data: bytes) -> None:
            writer.write(data)
            await writer.drain()

        try:
            request = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            await self._attack(request, reader)(write)
        except (OSError, asyncio.IncompleteReadError):
            pass  # it does not listen any more: as it should
        finally:
            writer.transport.abort() if writer.transport.get_write_buffer_size() else writer.close()

    def _attack(self, request: str, reader: asyncio.StreamReader) -> Attack:
        async def attack(write: Write) -> None:
            length = next(
                int(line.split(":")[1])
                for line in request.splitlines()
                if line.lower().startswith("content-length:")
            )
            body = json.loads(await reader.readexactly(length))
            word = _word_of(body)
            self.asked.append(word)
            if word.isdecimal():
                await refuses(f"{word} Refused", error("not this one"))(write)
                return
            calm = says(
                text(ANSWER), STOP, event(usage={"prompt_tokens": 3, "completion_tokens": 3}), DONE
            )
            if "input" in body:
                calm = says(vectors([1.0, 2.0]), before=head(kind="application/json"))
            await (ATTACKS | VECTOR_ATTACKS).get(word, calm)(write)

        if request.startswith("POST"):
            return attack
        if request.startswith("GET /v1/models"):
            cards = json.dumps({"data": [{"id": self.model, "owned_by": "someone"}]}).encode()
            return self.listing or refuses("200 OK", cards)
        return refuses("200 OK", b"{}")


@asynccontextmanager
async def open_hostile_server(model: str, port: int = 0) -> AsyncIterator[HostileServer]:
    """Yield a running server, on a free port by default."""
    hostile = HostileServer(model)
    tasks: set[asyncio.Task[None]] = set()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            await hostile.serve(reader, writer)
        finally:
            tasks.discard(task)

    server = await asyncio.start_server(accept, "127.0.0.1", port)
    hostile.port = server.sockets[0].getsockname()[1]
    try:
        yield hostile
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def main() -> None:
    async with open_hostile_server(sys.argv[1], int(os.environ["PORT"])):
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
