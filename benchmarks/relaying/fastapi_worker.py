"""The worker behind `fastapi_server`, frozen with it: pops requests, runs each as a task, publishes each token."""

from __future__ import annotations

import asyncio
import os

import orjson
import uvloop
from redis.asyncio import Redis

from benchmarks.relaying.fastapi_server import DONE, REQUESTS
from benchmarks.relaying.shapes import HEAD, chunk
from relais_common.jobs.chat import Chat, Message
from relais_common.jobs.job import Sampling
from relais_llm_worker.engines.engine_deterministic import DeterministicEngine

POP_S = 1.0


async def answer(redis: Redis, engine: DeterministicEngine, payload: bytes | str) -> None:
    request = orjson.loads(payload)
    channel, model = f"fastapi:answers:{request['id']}", request["model"]
    response_id = f"chatcmpl-{request['id']}"
    chat = Chat(tuple(Message(**turn) for turn in request["messages"]))
    prompt = (await engine.encode_chat("", chat)).token_ids
    await redis.publish(channel, orjson.dumps(chunk(response_id, model, HEAD)))
    limit = request["max_tokens"]
    sampling, reason = Sampling(max_tokens=limit), None
    async with engine.generate(request["id"], prompt, sampling, limit) as generation:
        async for piece in generation.chunks():
            delta, reason = {"content": piece.text}, piece.finish_reason
            await redis.publish(channel, orjson.dumps(chunk(response_id, model, delta)))
    await redis.publish(channel, orjson.dumps(chunk(response_id, model, {}, reason)))
    await redis.publish(channel, DONE)


async def main() -> None:
    engine = DeterministicEngine(
        "reference",
        max_model_len=100_000,
        max_num_seqs=1024,
        tokens_per_s=float(os.environ["DETERMINISTIC_TOKENS_PER_S"]),
    )
    async with Redis.from_url(os.environ["REDIS_URL"]) as redis, asyncio.TaskGroup() as tasks:
        while True:
            popped = await redis.blpop([REQUESTS], timeout=POP_S)
            if popped is not None:
                tasks.create_task(answer(redis, engine, popped[1]))


if __name__ == "__main__":
    uvloop.run(main())
