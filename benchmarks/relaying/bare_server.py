"""The limit: an aiohttp server that streams the deterministic engine's answer with no queue between.

A reference: it was frozen before anything was tuned against it.
"""

from __future__ import annotations

import asyncio
import os

import orjson
import uvloop
from aiohttp import web

from benchmarks.relaying.shapes import HEAD, Chunk, chunk
from relais_llm_worker.engines.engine_deterministic import answer_pieces, chat_prompt

TOKENS_PER_S = float(os.environ["DETERMINISTIC_TOKENS_PER_S"])
STEP_S = 1 / TOKENS_PER_S if TOKENS_PER_S else 0.0


async def ready(_: web.Request) -> web.Response:
    return web.Response()


async def chat(request: web.Request) -> web.StreamResponse:
    body = orjson.loads(await request.read())
    model, turn = body["model"], body["messages"][0]
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)

    async def write(one: Chunk) -> None:
        await response.write(b"data: %b\n\n" % orjson.dumps(one))

    await write(chunk("chatcmpl-bare", model, HEAD))
    prompt = chat_prompt([(turn["role"], turn["content"])])
    for piece in answer_pieces(prompt, body["max_tokens"]):
        await asyncio.sleep(STEP_S)
        await write(chunk("chatcmpl-bare", model, {"content": piece}))
    await write(chunk("chatcmpl-bare", model, {}, "length"))
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
