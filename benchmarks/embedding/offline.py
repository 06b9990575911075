"""The limit: `SentenceTransformer.encode` over all texts at once, with no server at all.

`python -m benchmarks.embedding.offline REQUESTS SEED VECTORS` waits for a line on stdin, then prints JSON and writes
the vectors to a file.
"""

from __future__ import annotations

import os
import resource
import sys
import time

import numpy as np
import orjson

from benchmarks.embedding.loading import load
from benchmarks.embedding.texts import make_requests


def main(requests: int, seed: int, path: str) -> None:
    model = load(os.environ)
    texts = [text for one in make_requests(requests, seed) for text in one]
    model.encode(texts[:64])
    print("ready", flush=True)
    sys.stdin.readline()
    usage, began_s = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    rows = model.encode(texts, convert_to_numpy=True)
    elapsed_s, after = time.perf_counter() - began_s, resource.getrusage(resource.RUSAGE_SELF)
    cpu_s = after.ru_utime + after.ru_stime - usage.ru_utime - usage.ru_stime
    np.save(path, np.asarray(rows, np.float32))
    print(orjson.dumps({"elapsed_s": elapsed_s, "cpu_s": cpu_s}).decode())


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
