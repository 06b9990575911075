"""Begins and checks streams of the deterministic engine over the native routes."""

from __future__ import annotations

import asyncio

import aiohttp

from relais_llm_worker.engines.engine_deterministic import answer_text
from relais_testing.native_client import events_url, submit
from relais_testing.process_stack import DETERMINISTIC, Starter
from relais_testing.processes import ServiceProcess
from relais_testing.sse_client import SseEvent, ids_of, read_events, text_of

TOKENS = 300
SLOW = {**DETERMINISTIC, "DETERMINISTIC_TOKENS_PER_S": "20", "DRAIN_S": "0"}
"""Settings of a worker whose answers outlast any standstill of a machine; `go_on_faster` ends them."""


async def go_on_faster(start: Starter, slow: ServiceProcess, **settings: str) -> None:
    """Let a worker without a pace take over what a slow one holds, which ends."""
    await asyncio.to_thread(start, "llm_worker", **DETERMINISTIC, **settings)
    assert await asyncio.to_thread(slow.terminate) == 0


def expected(prompt: str, tokens: int = TOKENS) -> str:
    """Return the expected text."""
    return answer_text(list(prompt.encode()), tokens)


def check_whole(events: list[SseEvent], prompt: str, tokens: int = TOKENS) -> None:
    """Check one stream, however often it moved: every event once, in order, with the undisturbed text."""
    assert ids_of(events) == list(range(1, len(events) + 1))
    names = [event.name for event in events]
    assert (names.count("started"), names.count("restarted"), names[-1]) == (1, 0, "completed")
    assert text_of(events) == expected(prompt, tokens)
    ids = [one for event in events if event.name == "token" for one in event.json["token_ids"]]
    assert len(ids) == tokens == events[-1].json["usage"]["output_tokens"]


async def begin(
    session: aiohttp.ClientSession, front: ServiceProcess, prompt: str, tokens: int = TOKENS
) -> asyncio.Task[list[SseEvent]]:
    """Return a client that reads its stream over one connection, after its first tokens."""
    channel_id = await submit(session, front.url, prompt, tokens)
    url = events_url(front.url, channel_id)
    reading = asyncio.create_task(read_events(session, url))
    await read_events(session, url, stop_after=20)
    return reading
