"""The upstream of every side: an OpenAI-compatible server that runs no model and costs little.

A chat is answered `ANSWER_MS` after its request, whole or streamed, as a gateway asks. A chat whose prompt is
`HELD` and a number is a stream that begins at once and then waits. `POST /go` gives all of these their tokens, each at
the same pace, at moments spread evenly over it; `POST /end` ends them. A token is the stream's number and when it was
written: `0000042at`, 19 digits of monotonic nanoseconds, `;`. `GET /state` says how many streams are open and what was
sent.
"""

from __future__ import annotations

import asyncio
import os
import time
from typing import Any, cast

import httptools
import orjson
import uvloop

from benchmarks.relaying.shapes import HEAD, chunk
from relais_llm_worker.engines.engine_deterministic import answer_pieces, chat_prompt
from relais_testing.tcp_ports import HOST

HELD = "hold "
ANSWER_MS = 20
TICK_S = 0.001
BACKLOG = 4096
_STAMP = "@" * 29
_ID = "chatcmpl-upstream"
_CREATED = 1_700_000_000
_STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
)


def _frame(data: bytes) -> bytes:
    """Return an event as one HTTP chunk."""
    return b"%x\r\ndata: %b\n\n\r\n" % (len(data) + 8, data)


def _end(model: str, prompt_tokens: int, tokens: int) -> bytes:
    """Return the last chunk, with the counts, and the end of the body."""
    last: dict[str, Any] = chunk(_ID, model, {}, "length") | _usage(prompt_tokens, tokens)
    return _frame(orjson.dumps(last)) + _frame(b"[DONE]") + b"0\r\n\r\n"


def _usage(prompt_tokens: int, tokens: int) -> dict[str, Any]:
    total = prompt_tokens + tokens
    return {
        "usage": {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": tokens,
            "total_tokens": total,
        }
    }


class Upstream:
    """The streams that wait for their tokens, and what was sent."""

    def __init__(self) -> None:
        self.held: dict[Connection, None] = {}
        self.sent = 0
        self._sending_s = 0.0
        self._going: asyncio.Task[None] | None = None

    def state(self) -> dict[str, float]:
        """Return the open streams, and what the last `go` has sent so far, in how many seconds."""
        return {"open": len(self.held), "sent": self.sent, "sending_s": self._sending_s}

    def go(self, tokens: int, tokens_per_s: float) -> None:
        """Begin to give each stream that is open now its tokens."""
        self._going = asyncio.create_task(self._give(list(self.held), tokens, tokens_per_s))

    def end(self) -> None:
        """End the streams that are open now."""
        for stream in self.held:
            stream.end()
        self.held.clear()

    async def _give(self, streams: list[Connection], tokens: int, tokens_per_s: float) -> None:
        turns = max(1, round(1 / tokens_per_s / TICK_S))
        of_turn: list[list[Connection]] = [[] for _ in range(turns)]
        for at, stream in enumerate(streams):
            of_turn[at * turns // len(streams)].append(stream)
        began_s, self.sent, self._sending_s = time.monotonic(), 0, 0.0
        for number in range(tokens):
            for turn, some in enumerate(of_turn):
                if not some:
                    continue
                tick = number * turns + turn
                # One that is late gives way to its sockets all the same.
                await asyncio.sleep(max(0.0, began_s + tick * TICK_S - time.monotonic()))
                for stream in some:
                    if stream in self.held:
                        stream.give_token()
                        self.sent += 1
                self._sending_s = time.monotonic() - began_s


class Connection(asyncio.Protocol):
    """One connection, with one request at a time."""

    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream
        self._begin()

    def _begin(self) -> None:
        self._parser = httptools.HttpRequestParser(self)
        self._path, self._body = b"", b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are no subclasses of asyncio's.
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, error: Exception | None) -> None:
        self._upstream.held.pop(self, None)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_url(self, url: bytes) -> None:
        self._path += url

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        path, body = self._path, self._body
        asyncio.get_running_loop().call_soon(self._begin)
        match path.decode():
            case "/health" | "/readyz":
                self._answer({})
            case "/v1/models":
                self._answer({"object": "list", "data": []})
            case "/state":
                self._answer(self._upstream.state())
            case "/go":
                self._upstream.go(**orjson.loads(body))
                self._answer({})
            case "/end":
                self._upstream.end()
                self._answer({})
            case "/v1/chat/completions":
                self._chat(orjson.loads(body))
            case _:
                self._answer({}, status=b"404 Not Found")

    def _answer(self, told: dict[str, Any], *, status: bytes = b"200 OK") -> None:
        body = orjson.dumps(told)
        self._transport.write(
            b"HTTP/1.1 %b\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
            % (status, len(body), body)
        )

    def _chat(self, asked: dict[str, Any]) -> None:
        model, prompt = asked["model"], asked["messages"][-1]["content"]
        if prompt.startswith(HELD):
            self._hold(model, int(prompt.removeprefix(HELD)))
            return
        tokens = asked["max_tokens"]
        ids = chat_prompt([("user", prompt)])
        pieces = answer_pieces(ids, tokens)
        loop = asyncio.get_running_loop()
        if asked.get("stream"):
            frames = [chunk(_ID, model, HEAD)]
            frames += [chunk(_ID, model, {"content": piece}) for piece in pieces]
            written = b"".join(_frame(orjson.dumps(one)) for one in frames)
            answer = _STREAM_HEAD + written + _end(model, len(ids), tokens)
            loop.call_later(ANSWER_MS / 1000, self._transport.write, answer)
            return
        message = {"role": "assistant", "content": "".join(pieces)}
        whole = {
            "id": _ID,
            "object": "chat.completion",
            "created": _CREATED,
            "model": model,
            "choices": [{"index": 0, "message": message, "finish_reason": "length"}],
            **_usage(len(ids), tokens),
        }
        loop.call_later(ANSWER_MS / 1000, self._answer, whole)

    def _hold(self, model: str, number: int) -> None:
        self._given = 0
        self._model = model
        # All but the stamp stays the same from token to token.
        frame = _frame(orjson.dumps(chunk(_ID, model, {"content": _STAMP})))
        before, self._after = frame.split(_STAMP.encode())
        self._before = before + b"%07dat" % number
        self._transport.write(_STREAM_HEAD + _frame(orjson.dumps(chunk(_ID, model, HEAD))))
        self._upstream.held[self] = None

    def give_token(self) -> None:
        """Write a token."""
        self._given += 1
        self._transport.write(b"%b%019d;%b" % (self._before, time.monotonic_ns(), self._after))

    def end(self) -> None:
        """Write the answer's end."""
        self._transport.write(_end(self._model, 1, self._given))


async def main() -> None:
    upstream = Upstream()
    server = await asyncio.get_running_loop().create_server(
        lambda: Connection(upstream), HOST, int(os.environ["PORT"]), backlog=BACKLOG
    )
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main())
