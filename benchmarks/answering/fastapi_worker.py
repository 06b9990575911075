"""The worker behind `fastapi_server`, frozen with it: pops requests, runs each as a task, pushes its whole answer."""

from __future__ import annotations

import asyncio
import os
from typing import Any

import orjson
import uvloop
from redis.asyncio import Redis

from benchmarks.answering.fastapi_server import ANSWERS, REQUESTS, WAIT_S
from relais_common.jobs.chat import Chat, Message
from relais_common.jobs.job import Sampling
from relais_embedding_worker.encoder_deterministic import DeterministicEncoder
from relais_llm_worker.engines.engine_deterministic import DeterministicEngine

POP_S = 1.0


async def chat(engine: DeterministicEngine, request: dict[str, Any]) -> dict[str, Any]:
    turns = Chat(tuple(Message(**turn) for turn in request["messages"]))
    prompt = (await engine.encode_chat("", turns)).token_ids
    limit, text = request["max_tokens"], ""
    async with engine.generate(request["id"], prompt, Sampling(max_tokens=limit), limit) as run:
        async for piece in run.chunks():
            text += piece.text
    message = {"role": "assistant", "content": text}
    return {
        "id": f"chatcmpl-{request['id']}",
        "object": "chat.completion",
        "created": 1_700_000_000,
        "model": request["model"],
        "choices": [{"index": 0, "message": message, "finish_reason": "length"}],
        "usage": {
            "prompt_tokens": len(prompt),
            "completion_tokens": limit,
            "total_tokens": len(prompt) + limit,
        },
    }


def embed(encoder: DeterministicEncoder, request: dict[str, Any]) -> dict[str, Any]:
    [tokens] = encoder.tokenize([request["input"]], None, len(request["input"]))
    assert tokens is not None
    [row] = encoder.encode([tokens])
    count = len(tokens.ids)
    return {
        "object": "list",
        "data": [{"object": "embedding", "index": 0, "embedding": row.tolist()}],
        "model": request["model"],
        "usage": {"prompt_tokens": count, "total_tokens": count},
    }


async def main() -> None:
    engine = DeterministicEngine(
        "reference", max_model_len=100_000, max_num_seqs=1024, tokens_per_s=0
    )
    encoder = DeterministicEncoder()

    async def answer(redis: Redis, payload: bytes | str) -> None:
        request = orjson.loads(payload)
        told = embed(encoder, request) if "input" in request else await chat(engine, request)
        async with redis.pipeline(transaction=False) as pipeline:
            pipeline.rpush(ANSWERS + request["id"], orjson.dumps(told))
            pipeline.expire(ANSWERS + request["id"], WAIT_S)
            await pipeline.execute()

    async with Redis.from_url(os.environ["REDIS_URL"]) as redis, asyncio.TaskGroup() as tasks:
        while True:
            popped = await redis.blpop([REQUESTS], timeout=POP_S)
            if popped is not None:
                tasks.create_task(answer(redis, popped[1]))


if __name__ == "__main__":
    uvloop.run(main())
