"""The client of both servers: so many at once, each with one short request after another on a connection of its own.

Answers are checked once all have come. It waits for a line on stdin, then prints JSON:
`python -m benchmarks.answering.client URL chat|embeddings MODEL CLIENTS REQUESTS TOKENS NAME`.
"""

from __future__ import annotations

import asyncio
import sys
import time
from typing import cast
from urllib.parse import urlsplit

import httptools
import orjson
import uvloop

from benchmarks.servers import measured
from relais_embedding_worker.encoder_deterministic import DeterministicEncoder
from relais_llm_worker.engines.engine_deterministic import answer_pieces, chat_prompt

PATHS = {"chat": "/v1/chat/completions", "embeddings": "/v1/embeddings"}
WARM_UP_REQUESTS = 4


class _Connection(asyncio.Protocol):
    """A connection that is kept, with one request at a time."""

    def __init__(self) -> None:
        self._body = b""
        self._answered: asyncio.Future[bytes] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are no subclasses of asyncio's.
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def connection_lost(self, error: Exception | None) -> None:
        if self._answered is not None and not self._answered.done():
            self._answered.set_exception(error or ConnectionError("the server closed it"))

    def on_body(self, data: bytes) -> None:
        self._body += data

    def on_message_complete(self) -> None:
        assert self._answered is not None
        status = self._parser.get_status_code()
        if status != 200:
            self._answered.set_exception(ConnectionError(f"{status}: {self._body!r}"))
        else:
            self._answered.set_result(self._body)

    async def post(self, head: bytes, body: bytes) -> bytes:
        """Send a request and return the body of its answer. Raises ConnectionError where it is refused or cut."""
        self._body, self._parser = b"", httptools.HttpResponseParser(self)
        self._answered = asyncio.get_running_loop().create_future()
        self.transport.write(b"%bContent-Length: %d\r\n\r\n%b" % (head, len(body), body))
        return await self._answered


def _request(kind: str, model: str, prompt: str, tokens: int) -> bytes:
    if kind == "embeddings":
        return orjson.dumps({"model": model, "input": prompt})
    messages = [{"role": "user", "content": prompt}]
    return orjson.dumps({"model": model, "messages": messages, "max_tokens": tokens})


def _check(kind: str, prompt: str, tokens: int, answer: bytes) -> None:
    """AssertionError where it is not the right answer to its prompt."""
    told = orjson.loads(answer)
    if kind == "chat":
        expected = "".join(answer_pieces(chat_prompt([("user", prompt)]), tokens))
        assert told["choices"][0]["message"]["content"] == expected, prompt
        return
    encoder = DeterministicEncoder()
    [ids] = encoder.tokenize([prompt], None, len(prompt))
    assert ids is not None
    [row] = encoder.encode([ids])
    found = told["data"][0]["embedding"]
    assert len(found) == len(row), prompt
    assert max(abs(one - other) for one, other in zip(found, row, strict=True)) < 1e-5, prompt


async def main(
    url: str, kind: str, model: str, clients: int, requests: int, tokens: int, name: str
) -> None:
    address = urlsplit(url)
    assert address.hostname is not None
    assert address.port is not None
    host, port = address.hostname, address.port
    head = (
        f"POST {PATHS[kind]} HTTP/1.1\r\nHost: {address.netloc}\r\n"
        "Content-Type: application/json\r\n"
    ).encode()
    loop = asyncio.get_running_loop()
    answers: list[tuple[str, bytes]] = []
    latencies_s: list[float] = []

    async def one(connection: _Connection, who: str, count: int) -> None:
        for turn in range(count):
            prompt = f"{who}, {turn}: le temps d'attente est trop long"
            began_s = time.perf_counter()
            answer = await connection.post(head, _request(kind, model, prompt, tokens))
            latencies_s.append(time.perf_counter() - began_s)
            answers.append((prompt, answer))

    connections = [
        (await loop.create_connection(_Connection, host, port))[1] for _ in range(clients)
    ]

    async def all_of(count: int, what: str) -> None:
        await asyncio.gather(
            *(one(to, f"{name} {what} {at}", count) for at, to in enumerate(connections))
        )

    await all_of(WARM_UP_REQUESTS, "warms up")
    latencies_s.clear()
    spent = await measured(lambda: all_of(requests, "asks"))
    for connection in connections:
        connection.transport.close()
    for prompt, answer in answers:
        _check(kind, prompt, tokens, answer)
    print(orjson.dumps({**spent, "latencies_s": latencies_s}).decode())


if __name__ == "__main__":
    where, path, what, many, each, length, who = sys.argv[1:]
    uvloop.run(main(where, path, what, int(many), int(each), int(length), who))
