"""The client that every server gets: streams at once over plain sockets, a time for each frame, then a check of each.

While streams run it splits frames and notes when they came, no more; what is in them is checked once all have ended.
`python -m benchmarks.relaying.client URL MODEL STREAMS TOKENS NAME KEY` waits for a line on stdin, then prints JSON.
"""

from __future__ import annotations

import asyncio
import resource
import sys
import time
from dataclasses import dataclass, field
from itertools import pairwise
from urllib.parse import urlsplit

import httptools
import orjson
import uvloop

from relais_llm_worker.engine_deterministic import answer_pieces, chat_prompt

END = b"data: [DONE]"


@dataclass(slots=True)
class Stream:
    """What one streamed answer brought.

    Attributes:
        frames: bytes of each frame, and when it was there whole.
        reads: how often the socket gave bytes.
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


async def _run(url: str, model: str, stream: Stream, tokens: int, key: str) -> None:
    address = urlsplit(url)
    assert address.hostname is not None
    assert address.port is not None
    body = orjson.dumps(
        {
            "model": model,
            "messages": [{"role": "user", "content": stream.prompt}],
            "max_tokens": tokens,
            "stream": True,
        }
    )
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: {address.netloc}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        + (f"Authorization: Bearer {key}\r\n\r\n" if key else "\r\n")
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


def _token_times(stream: Stream, tokens: int) -> list[float]:
    """When each token came. AssertionError unless each came in a frame of its own, in order, and nothing else did."""
    times, texts = [], []
    assert stream.frames[-1][1] == END, stream.frames[-1]
    for at_s, frame in stream.frames[:-1]:
        if frame.startswith(b":"):
            continue
        content = orjson.loads(frame.removeprefix(b"data: "))["choices"][0]["delta"].get("content")
        if content:
            times.append(at_s)
            texts.append(content)
    assert texts == answer_pieces(chat_prompt([("user", stream.prompt)]), tokens), stream.prompt
    return times


async def main(url: str, model: str, streams: int, tokens: int, name: str, key: str) -> None:
    await _run(url, model, Stream(f"{name} warms up"), 8, key)
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    measured = [Stream(f"{name} asks {number}") for number in range(streams)]
    usage, began_s = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    await asyncio.gather(*(_run(url, model, one, tokens, key) for one in measured))
    elapsed_s, after = time.perf_counter() - began_s, resource.getrusage(resource.RUSAGE_SELF)
    times = [_token_times(one, tokens) for one in measured]
    answer = {
        "frames": sum(map(len, times)),
        "elapsed_s": elapsed_s,
        "cpu_s": after.ru_utime + after.ru_stime - usage.ru_utime - usage.ru_stime,
        "reads": sum(one.reads for one in measured),
        "first_s": [at[0] - one.asked_s for one, at in zip(measured, times, strict=True)],
        "gaps_s": [later - sooner for at in times for sooner, later in pairwise(at)],
    }
    print(orjson.dumps(answer).decode())


if __name__ == "__main__":
    where, what, count, length, who, shown = sys.argv[1:]
    uvloop.run(main(where, what, int(count), int(length), who, shown))
