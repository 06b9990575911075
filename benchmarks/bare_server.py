"""The limit: an aiohttp server that streams the deterministic engine's answer with no queue between."""

from __future__ import annotations

import asyncio
import os

import orjson
import uvloop
from aiohttp import web

from relais_llm_worker.engine_deterministic import answer_token_ids


async def ready(_: web.Request) -> web.Response:
    return web.Response()


async def chat(request: web.Request) -> web.StreamResponse:
    body = orjson.loads(await request.read())
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    prompt = list(body["messages"][0]["content"].encode())
    for token_id in answer_token_ids(prompt, body["max_tokens"]):
        await asyncio.sleep(0)
        delta = {"content": f"{token_id} "}
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": None}
        chunk = {
            "id": "chatcmpl-bare",
            "object": "chat.completion.chunk",
            "created": 0,
            "model": body["model"],
            "choices": [choice],
        }
        await response.write(b"data: %b\n\n" % orjson.dumps(chunk))
    await response.write(b"data: [DONE]\n\n")
    await response.write_eof()
    return response


async def main() -> None:
    app = web.Application()
    app.add_routes([web.get("/readyz", ready), web.post("/v1/chat/completions", chat)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", int(os.environ["PORT"])).start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(main())
