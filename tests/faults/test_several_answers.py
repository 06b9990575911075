"""Requests with several answers, whose worker and orchestrator are killed: each answer goes on to the letter."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict

import aiohttp

from relais_llm_worker.engines.engine_deterministic import answer_text
from relais_testing.native_client import events_url, state_of
from relais_testing.process_stack import MODEL, Starter
from relais_testing.sse_client import SseEvent, ids_of, read_events
from relais_testing.streams import SLOW, go_on_faster

PROMPTS = ["river", "bridge"]
N, TOKENS = 3, 240


def check_whole(events: list[SseEvent]) -> None:
    """Every event once and in order, and each answer as if nothing had happened."""
    assert ids_of(events) == list(range(1, len(events) + 1))
    names = Counter(event.name for event in events)
    assert (names["started"], names["restarted"], names["completed"]) == (1, 0, 1)
    texts: defaultdict[int, str] = defaultdict(str)
    ids: defaultdict[int, int] = defaultdict(int)
    for event in (event for event in events if event.name == "token"):
        texts[event.json.get("index", 0)] += event.json["text"]
        ids[event.json.get("index", 0)] += len(event.json["token_ids"])
    assert texts == {
        which * N + index: answer_text(list(prompt.encode()), TOKENS, index)
        for which, prompt in enumerate(PROMPTS)
        for index in range(N)
    }
    assert set(ids.values()) == {TOKENS}
    assert events[-1].json["usage"]["input_tokens"] == len("".join(PROMPTS))
    assert events[-1].json["usage"]["output_tokens"] == len(PROMPTS) * N * TOKENS


async def test_answers_outlive_their_workers_and_orchestrators(
    start: Starter, session: aiohttp.ClientSession
) -> None:
    fronts = [start("orchestrator") for _ in range(2)]
    worker = start("llm_worker", **SLOW)
    body = {"model": MODEL, "prompt": PROMPTS, "params": {"n": N, "max_tokens": TOKENS}}
    async with session.post(f"{fronts[0].url}/v1/requests", json=body) as response:
        channel_id = (await response.json())["channel_id"]
    url = events_url(fronts[1].url, channel_id)
    whole = asyncio.create_task(read_events(session, url))
    seen = await read_events(session, events_url(fronts[0].url, channel_id), stop_after=80)
    fronts[0].kill()
    for _ in range(2):
        worker.kill()
        worker = start("llm_worker", **SLOW)
        tail = (await state_of(session, fronts[1].url, channel_id))["last_event_id"]
        await read_events(session, url, after=tail, stop_after=60)
    await go_on_faster(start, worker)
    rest = await read_events(session, url, after=int(seen[-1].id))
    check_whole(await whole)
    check_whole(seen + rest)
