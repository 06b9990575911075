"""The client that every server gets: streams at once over plain sockets, a time for each frame, then a check of each.

While streams run it splits frames and notes when they came, no more; what is in them is checked once all have ended.
`python -m benchmarks.relaying.client URL MODEL STREAMS TOKENS NAME KEY REQUESTS` waits for a line on stdin, then prints
JSON. So many REQUESTS follow one another in the place of each stream.
"""

from __future__ import annotations

import asyncio
import resource
import sys
import time
from itertools import pairwise

import orjson
import uvloop

from benchmarks.frames import END, Stream, ask
from relais_llm_worker.engines.engine_deterministic import answer_pieces, chat_prompt


async def _run(url: str, model: str, stream: Stream, tokens: int, key: str) -> None:
    body = {
        "model": model,
        "messages": [{"role": "user", "content": stream.prompt}],
        "max_tokens": tokens,
        "stream": True,
    }
    await ask(url, orjson.dumps(body), stream, key)


def _token_times(stream: Stream, tokens: int) -> list[float]:
    """When each token came. AssertionError unless each came in a frame of its own, in order, and nothing else did."""
    times, texts = [], []
    assert stream.frames[-1][1] == END, stream.frames[-1]
    for at_s, frame in stream.frames[:-1]:
        if frame.startswith(b":"):
            continue
        content = orjson.loads(frame.removeprefix(b"data: "))["choices"][0]["delta"].get("content")
        if content:
            times.append(at_s)
            texts.append(content)
    assert texts == answer_pieces(chat_prompt([("user", stream.prompt)]), tokens), stream.prompt
    return times


async def main(
    url: str, model: str, streams: int, tokens: int, name: str, key: str, requests: int
) -> None:
    async def one_after_another(asked: list[Stream]) -> None:
        for one in asked:
            await _run(url, model, one, tokens, key)

    await _run(url, model, Stream(f"{name} warms up"), 8, key)
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    measured = [Stream(f"{name} asks {number}") for number in range(streams * requests)]
    usage, began_s = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    await asyncio.gather(*(one_after_another(measured[at::streams]) for at in range(streams)))
    elapsed_s, after = time.perf_counter() - began_s, resource.getrusage(resource.RUSAGE_SELF)
    times = [_token_times(one, tokens) for one in measured]
    answer = {
        "frames": sum(map(len, times)),
        "elapsed_s": elapsed_s,
        "cpu_s": after.ru_utime + after.ru_stime - usage.ru_utime - usage.ru_stime,
        "reads": sum(one.reads for one in measured),
        "first_s": [at[0] - one.asked_s for one, at in zip(measured, times, strict=True)],
        "gaps_s": [later - sooner for at in times for sooner, later in pairwise(at)],
    }
    print(orjson.dumps(answer).decode())


if __name__ == "__main__":
    where, what, count, length, who, shown, times = sys.argv[1:]
    uvloop.run(main(where, what, int(count), int(length), who, shown, int(times)))
