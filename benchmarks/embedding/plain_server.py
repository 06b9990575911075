"""What a user would write: aiohttp in front of `SentenceTransformer.encode`, one request after another.

A reference: it was frozen before anything was tuned against it.
"""

from __future__ import annotations

import asyncio
import base64
import os

import numpy as np
import orjson
import uvloop
from aiohttp import web

from benchmarks.embedding.loading import load


async def main() -> None:
    model = load(os.environ)
    turn = asyncio.Lock()

    async def ready(_: web.Request) -> web.Response:
        return web.Response()

    async def embeddings(request: web.Request) -> web.Response:
        body = orjson.loads(await request.read())
        async with turn:
            rows = await asyncio.to_thread(model.encode, body["input"])
        rows = np.asarray(rows, np.float32)
        packed = body.get("encoding_format") == "base64"
        data = [
            {
                "object": "embedding",
                "index": index,
                "embedding": base64.b64encode(row).decode() if packed else row,
            }
            for index, row in enumerate(rows)
        ]
        answer = {"object": "list", "data": data, "model": body["model"]}
        return web.Response(
            body=orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY),
            content_type="application/json",
        )

    app = web.Application(client_max_size=16 << 20)
    app.add_routes([web.get("/readyz", ready), web.post("/v1/embeddings", embeddings)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", int(os.environ["PORT"])).start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(main())
