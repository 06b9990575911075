"""The client that every server gets: streams at once over plain sockets, a time for each frame, then a check of each.

While streams run it splits frames and notes when they came, no more; what is in them is checked once all have ended.
`python -m benchmarks.relaying.client URL MODEL STREAMS TOKENS NAME` waits for a line on stdin, then prints JSON.
"""

from __future__ import annotations

import asyncio
import sys
from itertools import pairwise

import orjson
import uvloop

from benchmarks.frames import END, Stream, ask_chat
from benchmarks.servers import measured
from relais_llm_worker.engines.engine_deterministic import answer_pieces, chat_prompt


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


async def main(url: str, model: str, count: int, tokens: int, name: str) -> None:
    await ask_chat(url, model, Stream(f"{name} warms up"), 8)
    streams = [Stream(f"{name} asks {number}") for number in range(count)]
    spent = await measured(
        lambda: asyncio.gather(*(ask_chat(url, model, one, tokens) for one in streams))
    )
    times = [_token_times(one, tokens) for one in streams]
    answer = {
        **spent,
        "frames": sum(map(len, times)),
        "reads": sum(one.reads for one in streams),
        "first_s": [at[0] - one.asked_s for one, at in zip(streams, times, strict=True)],
        "gaps_s": [later - sooner for at in times for sooner, later in pairwise(at)],
    }
    print(orjson.dumps(answer).decode())


if __name__ == "__main__":
    where, what, many, length, who = sys.argv[1:]
    uvloop.run(main(where, what, int(many), int(length), who))
