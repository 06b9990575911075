"""The limit: `SentenceTransformer.encode` over all texts at once, or `CrossEncoder.predict`, with no server at all.

`python -m benchmarks.embedding.offline REQUESTS SEED FORMAT VECTORS` waits for a line on stdin, then prints JSON and
writes the vectors to a file, or the scores where the format is `rerank`.
"""

from __future__ import annotations

import asyncio
import os
import sys
from typing import Any

import numpy as np
import orjson
import structlog

from benchmarks.embedding.loading import load
from benchmarks.embedding.texts import RERANK, make_requests, query_of
from benchmarks.servers import measured


async def main(requests: int, seed: int, form: str, path: str) -> None:
    # Standard output is for what this process tells.
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    asked = make_requests(requests, seed)
    if form == RERANK:
        run = load(os.environ, "CrossEncoder").predict
        inputs: list[Any] = [(query_of(one), text) for one in asked for text in one]
    else:
        run = load(os.environ).encode
        inputs = [text for one in asked for text in one]
    run(inputs[:64])

    rows = []

    async def encode() -> None:
        rows.extend(run(inputs, convert_to_numpy=True))

    spent = await measured(encode)
    np.save(path, np.asarray(rows, np.float32).reshape(len(inputs), -1))
    print(orjson.dumps(spent).decode())


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4]))
