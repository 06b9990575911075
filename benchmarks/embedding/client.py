"""The clients of every server: so many at once, each with one request after another out of the same list.

`python -m benchmarks.embedding.client URL MODEL CLIENTS REQUESTS SEED FORMAT VECTORS` waits for a line on stdin, then
prints JSON and writes the vectors, in the order of the texts, to a file. What came is read after the last answer.
FORMAT is of the answers, or `rerank`: then the requests rank their texts, and the file has their scores.
"""

from __future__ import annotations

import asyncio
import base64
import sys
import time
from dataclasses import dataclass

import aiohttp
import numpy as np
import orjson
import uvloop
from numpy.typing import NDArray

from benchmarks.embedding.texts import RERANK, make_requests, query_of
from benchmarks.servers import measured


@dataclass(slots=True)
class _Asked:
    body: bytes
    inputs: int
    answer: bytes = b""
    took_s: float = 0.0


async def _ask(session: aiohttp.ClientSession, url: str, one: _Asked) -> None:
    began_s = time.perf_counter()
    async with session.post(
        url, data=one.body, headers={"Content-Type": "application/json"}
    ) as response:
        one.answer = await response.read()
        assert response.status == 200, one.answer[:500]
    one.took_s = time.perf_counter() - began_s


def _body(model: str, texts: list[str], encoding_format: str) -> bytes:
    if encoding_format == RERANK:
        return orjson.dumps({"model": model, "query": query_of(texts), "documents": texts})
    return orjson.dumps({"model": model, "input": texts, "encoding_format": encoding_format})


def _rows(one: _Asked, encoding_format: str) -> NDArray[np.float32]:
    """AssertionError unless there is a vector for each input, in order."""
    if encoding_format == RERANK:
        results = {each["index"]: each for each in orjson.loads(one.answer)["results"]}
        scores = [results[index]["relevance_score"] for index in range(one.inputs)]
        return np.asarray(scores, np.float32)[:, None]
    data = orjson.loads(one.answer)["data"]
    assert [each["index"] for each in data] == list(range(one.inputs))
    if encoding_format == "base64":
        return np.stack(
            [np.frombuffer(base64.b64decode(each["embedding"]), "<f4") for each in data]
        )
    return np.asarray([each["embedding"] for each in data], np.float32)


async def main(
    url: str, model: str, clients: int, requests: int, seed: int, encoding_format: str, path: str
) -> None:
    texts = make_requests(requests, seed)
    asked = [_Asked(_body(model, one, encoding_format), len(one)) for one in texts]
    waiting = iter(asked)
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=None)
    ) as session:
        address = f"{url}/v1/{'rerank' if encoding_format == RERANK else 'embeddings'}"
        warm = [_Asked(one.body, one.inputs) for one in asked[:8]]
        await asyncio.gather(*(_ask(session, address, one) for one in warm))

        async def client() -> None:
            for one in waiting:
                await _ask(session, address, one)

        spent = await measured(lambda: asyncio.gather(*(client() for _ in range(clients))))
    np.save(path, np.concatenate([_rows(one, encoding_format) for one in asked]))
    answer = {**spent, "requests": [[one.inputs, one.took_s] for one in asked]}
    print(orjson.dumps(answer).decode())


if __name__ == "__main__":
    where, what, count, many, number, form, file = sys.argv[1:]
    uvloop.run(main(where, what, int(count), int(many), int(number), form, file))
