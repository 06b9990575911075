"""A server of a remote model that turns on whoever asks it to: `PORT=8000 python -m benchmarks.attacking.upstream`.

A chat whose last message is `mode NAME` is answered in that way; any other gets a short answer at once.
"""

from __future__ import annotations

import asyncio
import os

import orjson
from aiohttp import web

HOSTILE_MODEL = "far-away"
WORDS = ("a ", "few ", "words ", "from ", "far ", "away ")
FILLER = "x" * (1 << 20)
MOST_CHUNKS = 5000
MODES = (
    "usage-1e30",
    "usage-9e18",
    "usage-text",
    "huge-chunks",
    "endless-line",
    "endless-chunks",
    "endless-error",
    "deep-json",
    "429",
    "403",
    "404",
    "500",
    "silent",
)


def _frame(delta: dict[str, object], **more: object) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": more.pop("finish", None)}
    chunk = {"id": "x", "object": "chat.completion.chunk", "created": 1, "model": HOSTILE_MODEL}
    return b"data: " + orjson.dumps({**chunk, "choices": [choice], **more}) + b"\n\n"


def _mode(body: dict[str, object]) -> str:
    messages = body.get("messages")
    content = messages[-1]["content"] if isinstance(messages, list) else ""
    return content.removeprefix("mode ") if content.startswith("mode ") else ""


async def _models(_: web.Request) -> web.Response:
    card = {"id": HOSTILE_MODEL, "object": "model", "owned_by": "somebody"}
    return web.json_response({"object": "list", "data": [card]})


async def _chat(request: web.Request) -> web.StreamResponse:
    mode = _mode(await request.json())
    if mode.isdecimal():
        error = {"message": "not this one", "type": "refused", "code": None, "param": None}
        return web.json_response({"error": error}, status=int(mode))
    status = 500 if mode == "endless-error" else 200
    kind = "application/json" if status == 500 else "text/event-stream"
    response = web.StreamResponse(status=status, headers={"Content-Type": kind})
    await response.prepare(request)
    if mode == "silent":
        await asyncio.sleep(3600)
    if mode == "endless-error":
        for _ in range(MOST_CHUNKS):
            await response.write(FILLER.encode())
    if mode == "endless-line":
        await response.write(b"data: ")
        for _ in range(MOST_CHUNKS):
            await response.write(FILLER.encode())
    if mode == "deep-json":
        await response.write(b"data: " + b"[" * 500_000 + b"\n\n")
    count = {"huge-chunks": 200, "endless-chunks": 10**6}.get(mode, 1)
    words = (FILLER,) if mode == "huge-chunks" else WORDS
    for _ in range(count):
        for word in words:
            await response.write(_frame({"content": word}))
    usage: dict[str, object] = {"prompt_tokens": 7, "completion_tokens": 6, "total_tokens": 13}
    if mode.startswith("usage-"):
        value = {"1e30": 1e30, "9e18": 9 * 10**18}.get(mode[6:], "many")
        usage = dict.fromkeys(usage, value)
    await response.write(_frame({}, finish="stop"))
    await response.write(_frame({}, usage=usage))
    await response.write(b"data: [DONE]\n\n")
    return response


def main() -> None:
    app = web.Application(client_max_size=1 << 24)
    app.router.add_get("/v1/models", _models)
    app.router.add_get("/readyz", _models)
    app.router.add_post("/v1/chat/completions", _chat)
    web.run_app(app, host="127.0.0.1", port=int(os.environ["PORT"]), print=None)


if __name__ == "__main__":
    main()
