"""Clients of a fleet: each asks one stream after another, and counts the frames of each answer.

`python -m benchmarks.planning.client URL MODEL CLIENTS REQUESTS TOKENS PROMPT NAME` waits for a line on stdin, then
prints JSON.
"""

from __future__ import annotations

import asyncio
import resource
import sys
from collections.abc import Iterator

import orjson
import uvloop

from benchmarks.frames import END, Stream, ask_chat
from benchmarks.servers import measured


def _tokens(stream: Stream) -> int:
    """How many frames had text. AssertionError where the stream did not end well."""
    assert stream.frames[-1][1] == END, stream.frames[-1]
    return sum(b'"content":"' in one and b'"content":""' not in one for _, one in stream.frames)


async def main(
    url: str, model: str, clients: int, requests: int, tokens: int, prompt: int, name: str
) -> None:
    await ask_chat(url, model, Stream(f"{name} warms up"), 2)
    each = [
        [Stream(f"{name} asks {client}, {number}".ljust(prompt)) for number in range(requests)]
        for client in range(clients)
    ]

    async def follow(streams: Iterator[Stream]) -> None:
        for stream in streams:
            await ask_chat(url, model, stream, tokens)

    waited = resource.getrusage(resource.RUSAGE_SELF).ru_nvcsw
    spent = await measured(lambda: asyncio.gather(*(follow(iter(streams)) for streams in each)))
    turns = resource.getrusage(resource.RUSAGE_SELF).ru_nvcsw - waited
    streams = [stream for some in each for stream in some]
    for stream in streams:
        assert _tokens(stream) == tokens, stream.prompt
    open_s = sum(stream.frames[-1][0] - stream.asked_s for stream in streams)
    told = {**spent, "tokens": tokens * len(streams), "open_s": open_s, "turns": turns}
    print(orjson.dumps(told).decode())


if __name__ == "__main__":
    where, what, many, times, length, letters, who = sys.argv[1:]
    uvloop.run(main(where, what, int(many), int(times), int(length), int(letters), who))
