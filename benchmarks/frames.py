"""One streamed request over a plain socket: its frames, and when each was there. What is in them is left for later."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import httptools
import orjson

END = b"data: [DONE]"


@dataclass(slots=True)
class Stream:
    """What one streamed answer brought.

    Attributes:
        asked_s: when the request's last byte left.
        reads: how often the socket gave bytes.
        frames: when each was there whole, and its bytes.
    """

    prompt: str
    asked_s: float = 0.0
    reads: int = 0
    frames: list[tuple[float, bytes]] = field(default_factory=list)


class _Connection(asyncio.Protocol):
    """One connection for one request; httptools undoes the chunked encoding."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._parser = httptools.HttpResponseParser(self)
        self._rest = b""
        self._now_s = 0.0
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def data_received(self, data: bytes) -> None:
        self._now_s = time.perf_counter()
        self._stream.reads += 1
        self._parser.feed_data(data)

    def connection_lost(self, error: Exception | None) -> None:
        if not self.ended.done():
            self.ended.set_exception(error or ConnectionError("the server closed the stream"))

    def on_body(self, data: bytes) -> None:
        *whole, self._rest = (self._rest + data).split(b"\n\n")
        now_s = self._now_s
        self._stream.frames += [(now_s, frame) for frame in whole]

    def on_message_complete(self) -> None:
        if self._parser.get_status_code() != 200:
            self.ended.set_exception(ConnectionError(f"refused: {self._rest!r}"))
        else:
            self.ended.set_result(None)


async def ask_chat(url: str, model: str, stream: Stream, tokens: int) -> None:
    """Ask a model so many tokens about the stream's prompt. Raises as `ask`."""
    body = {
        "model": model,
        "messages": [{"role": "user", "content": stream.prompt}],
        "max_tokens": tokens,
        "stream": True,
    }
    await ask(url, orjson.dumps(body), stream)


async def ask(url: str, body: bytes, stream: Stream) -> None:
    """Post a chat and fill in its stream. Raises ConnectionError where it is refused or cut."""
    address = urlsplit(url)
    assert address.hostname is not None
    assert address.port is not None
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: {address.netloc}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    transport, connection = await asyncio.get_running_loop().create_connection(
        lambda: _Connection(stream), address.hostname, address.port
    )
    stream.asked_s = time.perf_counter()
    transport.write(head.encode() + body)
    try:
        await connection.ended
    finally:
        transport.close()
