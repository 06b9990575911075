"""What a user would write instead: FastAPI, sse-starlette, a Redis list for requests and pub/sub for answers.

A reference, written as well as its own simple design allows (uvloop, httptools, hiredis, orjson) and frozen before
anything was tuned against it: mend what is wrong in it, but do not tune it, in either direction. It promises less than
Relais: no log, no resumption, no lease; who dies takes his requests along.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import orjson
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel
from redis.asyncio import Redis
from sse_starlette import EventSourceResponse

REQUESTS = "fastapi:requests"
DONE = "[DONE]"


class Turn(BaseModel):
    role: str
    content: str


class ChatRequest(BaseModel):
    model: str
    messages: list[Turn]
    max_tokens: int
    stream: bool = True


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    app.state.redis = Redis.from_url(os.environ["REDIS_URL"], decode_responses=True)
    yield
    await app.state.redis.aclose()


app = FastAPI(lifespan=lifespan)


@app.get("/readyz")
async def ready() -> dict[str, bool]:
    return {"ready": bool(await app.state.redis.ping())}


async def events(wanted: ChatRequest) -> AsyncIterator[dict[str, str]]:
    redis: Redis = app.state.redis
    request_id = uuid.uuid4().hex
    channel = f"fastapi:answers:{request_id}"
    async with redis.pubsub() as pubsub:
        await pubsub.subscribe(channel)
        await redis.rpush(REQUESTS, orjson.dumps({"id": request_id, **wanted.model_dump()}))
        async for message in pubsub.listen():
            if message["type"] != "message":
                continue
            yield {"data": message["data"]}
            if message["data"] == DONE:
                return


@app.post("/v1/chat/completions")
async def chat(wanted: ChatRequest) -> EventSourceResponse:
    return EventSourceResponse(events(wanted), sep="\n")


if __name__ == "__main__":
    uvicorn.run(
        app,
        host="127.0.0.1",
        port=int(os.environ["PORT"]),
        loop="uvloop",
        http="httptools",
        access_log=False,
        log_level="warning",
    )
