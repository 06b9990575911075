"""The client of both servers: so many at once, each with one streamed chat after another, over plain sockets.

Answers are greedy and go on past the model's own end, so that every one has as many tokens as were asked for; `usage`
says so, since a frame of vLLM's may hold several. With 0 tokens, answers are calls that the model must make, and end
where their schema does. While streams run it only notes when frames came. It waits for a line on stdin, then prints
JSON: `python -m benchmarks.serving.client URL MODEL CLIENTS REQUESTS TOKENS NAME`.
"""

from __future__ import annotations

import asyncio
import sys
from itertools import pairwise
from typing import Any

import orjson
import uvloop

from benchmarks.frames import END, Stream, ask
from benchmarks.servers import measured

WARM_UP_TOKENS = 8
SUBJECTS = ("accueil", "attente", "horaires", "propreté", "site")
PARAMETERS: dict[str, Any] = {
    "type": "object",
    "properties": {
        "subjects": {
            "type": "array",
            "items": {"enum": SUBJECTS},
            "minItems": 24,
            "maxItems": 24,
        },
        "urgent": {"type": "boolean"},
        "summary": {"type": "string", "maxLength": 60},
    },
    "required": ["subjects", "urgent", "summary"],
    "additionalProperties": False,
}
CALL = {
    "tools": [{"type": "function", "function": {"name": "file", "parameters": PARAMETERS}}],
    "tool_choice": {"type": "function", "function": {"name": "file"}},
    "max_tokens": 512,
}


async def _run(url: str, model: str, stream: Stream, tokens: int) -> None:
    body = {
        "model": model,
        "messages": [{"role": "user", "content": stream.prompt}],
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
        **({"max_tokens": tokens, "ignore_eos": True} if tokens else CALL),
    }
    await ask(url, orjson.dumps(body), stream)


def _said(delta: dict[str, Any], *, is_call: bool) -> str:
    if not is_call:
        return delta.get("content") or ""
    calls = delta.get("tool_calls") or ()
    return "".join(one["function"].get("arguments") or "" for one in calls)


def _summary(stream: Stream, tokens: int) -> dict[str, Any]:
    """When text came, and all of it. AssertionError unless the stream is whole."""
    assert stream.frames[-1][1] == END, stream.frames[-1]
    times: list[float] = []
    text, finish_reason, usage = "", None, None
    for at_s, frame in stream.frames[:-1]:
        if frame.startswith(b":"):
            continue
        chunk = orjson.loads(frame.removeprefix(b"data: "))
        usage = chunk.get("usage") or usage
        for choice in chunk["choices"]:
            finish_reason = choice["finish_reason"] or finish_reason
            content = _said(choice["delta"], is_call=not tokens)
            if content:
                text += content
                # What one read brought came at once, in however many frames.
                if not times or at_s > times[-1]:
                    times.append(at_s)
    assert usage is not None
    if tokens:
        assert finish_reason == "length", finish_reason
        assert usage["completion_tokens"] == tokens, usage
    else:
        assert orjson.loads(text).keys() == PARAMETERS["properties"].keys(), text
    made = usage["completion_tokens"]
    return {
        "first_s": times[0] - stream.asked_s,
        "gaps_s": [later - sooner for sooner, later in pairwise(times)],
        "per_token_s": (times[-1] - times[0]) / (made - 1),
        "tokens": made,
        "prompt": stream.prompt,
        "text": text,
    }


async def main(url: str, model: str, clients: int, requests: int, tokens: int, name: str) -> None:
    await asyncio.gather(
        *(
            _run(
                url, model, Stream(f"{name}: {number}, on se prépare"), min(tokens, WARM_UP_TOKENS)
            )
            for number in range(clients)
        )
    )
    streams: list[Stream] = []

    async def one(number: int) -> None:
        for turn in range(requests):
            prompt = (
                f"{name}, {number}-{turn}: le temps d'attente à la mairie est beaucoup trop long."
            )
            stream = Stream(prompt)
            streams.append(stream)
            await _run(url, model, stream, tokens)

    spent = await measured(lambda: asyncio.gather(*(one(number) for number in range(clients))))
    answer = {**spent, "streams": [_summary(stream, tokens) for stream in streams]}
    print(orjson.dumps(answer).decode())


if __name__ == "__main__":
    where, what, count, each, length, who = sys.argv[1:]
    uvloop.run(main(where, what, int(count), int(each), int(length), who))
