"""The limit: `SentenceTransformer.encode` over all texts at once, with no server at all.

`python -m benchmarks.embedding.offline REQUESTS SEED VECTORS` waits for a line on stdin, then prints JSON and writes
the vectors to a file.
"""

from __future__ import annotations

import asyncio
import os
import sys

import numpy as np
import orjson

from benchmarks.embedding.loading import load
from benchmarks.embedding.texts import make_requests
from benchmarks.servers import measured


async def main(requests: int, seed: int, path: str) -> None:
    model = load(os.environ)
    texts = [text for one in make_requests(requests, seed) for text in one]
    model.encode(texts[:64])

    rows = []

    async def encode() -> None:
        rows.extend(model.encode(texts, convert_to_numpy=True))

    spent = await measured(encode)
    np.save(path, np.asarray(rows, np.float32))
    print(orjson.dumps(spent).decode())


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]))
