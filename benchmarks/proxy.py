"""What nginx in front costs a stream: time to the first token, directly and through it, in turns, one client."""

from __future__ import annotations

import statistics
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import aiohttp

from relais_testing.nginx import nginx_before
from relais_testing.process_stack import DETERMINISTIC, MODEL, make_starter
from relais_testing.sse_client import sse_events
from relais_testing.valkey import ValkeyServer

WARM_UP = 20


async def run(*, requests: int) -> None:
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        for part in ("redis", "logs"):
            (folder / part).mkdir()
        redis = stack.enter_context(ValkeyServer(folder / "redis", appendonly=True))
        start = make_starter(stack, redis, folder / "logs")
        front = start("orchestrator")
        start("llm_worker", **DETERMINISTIC)
        proxied = stack.enter_context(nginx_before([front.url], folder / "nginx"))
        first_s: dict[str, list[float]] = {"directly": [], "through nginx": []}
        async with aiohttp.ClientSession() as session:
            for turn in range(requests + WARM_UP):
                for way, base in zip(first_s, (front.url, proxied), strict=True):
                    seconds = await _first_token_s(session, base)
                    if turn >= WARM_UP:
                        first_s[way].append(seconds)
    print(f"time to the first token of {requests} chats each, one after the other")
    for way, taken in first_s.items():
        p50, p99 = statistics.median(taken), statistics.quantiles(taken, n=100)[98]
        print(f"{way:>14}: p50 {1e3 * p50:.2f} ms, p99 {1e3 * p99:.2f} ms")
    added = [
        through - direct
        for direct, through in zip(first_s["directly"], first_s["through nginx"], strict=True)
    ]
    print(f"{'added':>14}: p50 {1e3 * statistics.median(added):.2f} ms")


async def _first_token_s(session: aiohttp.ClientSession, base_url: str) -> float:
    body = {
        "model": MODEL,
        "messages": [{"role": "user", "content": "hello"}],
        "max_tokens": 4,
        "stream": True,
    }
    began_s = time.perf_counter()
    first_s: float | None = None
    async with session.post(f"{base_url}/v1/chat/completions", json=body) as response:
        assert response.status == 200, await response.text()
        async for event in sse_events(response):
            if event.data == "[DONE]":
                break
            if first_s is None and event.json["choices"][0]["delta"].get("content"):
                first_s = time.perf_counter() - began_s
    assert first_s is not None
    return first_s
