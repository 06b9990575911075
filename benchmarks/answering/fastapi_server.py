"""What a user would write for whole answers: FastAPI, a Redis list for requests, and a list for each answer.

A reference like `benchmarks.relaying.fastapi_server`, and frozen like it. It promises less than Relais: no lease, no
order between keys, no stored result; who dies takes his requests along.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import orjson
import uvicorn
from fastapi import FastAPI, Response
from pydantic import BaseModel
from redis.asyncio import Redis

REQUESTS = "fastapi:requests"
ANSWERS = "fastapi:answers:"
WAIT_S = 60


class Turn(BaseModel):
    role: str
    content: str


class ChatRequest(BaseModel):
    model: str
    messages: list[Turn]
    max_tokens: int


class EmbeddingsRequest(BaseModel):
    model: str
    input: str


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    # A pop that waits is no dead connection.
    app.state.redis = Redis.from_url(
        os.environ["REDIS_URL"], socket_timeout=WAIT_S + 5, socket_connect_timeout=WAIT_S
    )
    yield
    await app.state.redis.aclose()


app = FastAPI(lifespan=lifespan)


@app.get("/readyz")
async def ready() -> dict[str, bool]:
    return {"ready": bool(await app.state.redis.ping())}


async def answer_to(wanted: BaseModel) -> Response:
    redis: Redis = app.state.redis
    request_id = uuid.uuid4().hex
    await redis.rpush(REQUESTS, orjson.dumps({"id": request_id, **wanted.model_dump()}))
    popped = await redis.blpop([ANSWERS + request_id], timeout=WAIT_S)
    if popped is None:
        return Response(status_code=504)
    return Response(popped[1], media_type="application/json")


@app.post("/v1/chat/completions")
async def chat(wanted: ChatRequest) -> Response:
    return await answer_to(wanted)


@app.post("/v1/embeddings")
async def embeddings(wanted: EmbeddingsRequest) -> Response:
    return await answer_to(wanted)


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
