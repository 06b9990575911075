"""Streams in the words of Anthropic's and OpenAI's APIs: killed workers and servers cost a pause, and no letter."""

from __future__ import annotations

import json
from typing import Any

import aiohttp
import pytest

from relais_testing.process_stack import DETERMINISTIC, MODEL, Starter
from relais_testing.sse_client import SseEvent, sse_events

# Nobody reads while processes start.
PATIENT = {"WATCH_LEASE_S": "100"}
PACED = {**DETERMINISTIC, "DETERMINISTIC_TOKENS_PER_S": "100"}
WORDS = " ".join(f"mot-{number} à l'été" for number in range(60))
CALL = f'<tool_call>{{"name": "note", "arguments": {{"words":"{WORDS}"}}}}</tool_call>'
SAID = f"[say]<think>{WORDS}</think>{WORDS}{CALL}[/say]"
SCHEMA = {"type": "object", "properties": {"words": {"type": "string"}}}
RESUMABLE = {"X-Relais-Stream": "resumable"}
TOOLS: dict[str, Any] = {
    "anthropic": {"name": "note", "input_schema": SCHEMA},
    "openai": {"type": "function", "function": {"name": "note", "parameters": SCHEMA}},
    "responses": {"type": "function", "name": "note", "parameters": SCHEMA},
}
PATHS = {
    "anthropic": "/v1/messages",
    "openai": "/v1/chat/completions",
    "responses": "/v1/responses",
}
DELTAS = {
    "response.reasoning_text.delta": "reasoning",
    "response.output_text.delta": "text",
    "response.function_call_arguments.delta": "arguments",
}


def asked(name: str) -> dict[str, Any]:
    asked: dict[str, Any] = {"model": MODEL, "tools": [TOOLS[name]], "stream": True}
    if name == "responses":
        return {**asked, "input": SAID, "max_output_tokens": 5000}
    return {**asked, "messages": [{"role": "user", "content": SAID}], "max_tokens": 5000}


def check_whole(name: str, events: list[SseEvent]) -> None:
    """Check that reasoning, text and a call's arguments came, each letter once."""
    told = {"reasoning": "", "text": "", "arguments": ""}
    for event in events:
        if event.name in ("queued", "ping") or event.data == "[DONE]":
            continue
        body = event.json
        if name == "responses":
            if event.name in DELTAS:
                told[DELTAS[event.name]] += body["delta"]
            continue
        if name == "anthropic":
            delta = body.get("delta", {})
            told["reasoning"] += delta.get("thinking", "")
            told["text"] += delta.get("text", "")
            told["arguments"] += delta.get("partial_json", "")
            continue
        for choice in body["choices"]:
            delta = choice["delta"]
            told["reasoning"] += delta.get("reasoning", "")
            told["text"] += delta.get("content") or ""
            for part in delta.get("tool_calls", ()):
                told["arguments"] += part["function"].get("arguments", "")
    assert json.loads(told.pop("arguments")) == {"words": WORDS}
    assert told == {"reasoning": WORDS, "text": WORDS}
    last = events[-1]
    if name == "responses":
        assert last.name == "response.completed"
        numbers = [event.json["sequence_number"] for event in events if event.name != "queued"]
        assert numbers == list(range(len(numbers)))
    else:
        assert last.data == ("[DONE]" if name == "openai" else '{"type":"message_stop"}')


async def test_messages_go_on_over_the_same_connection_when_workers_are_killed(
    start: Starter, session: aiohttp.ClientSession
) -> None:
    front = start("orchestrator")
    worker = start("llm_worker", **PACED)
    events: list[SseEvent] = []
    goals = [60, 300, 500]
    body = asked("anthropic")
    async with session.post(f"{front.url}/v1/messages", json=body) as response:
        assert response.status == 200, await response.text()
        async for event in sse_events(response):
            events.append(event)
            if goals and len(events) == goals[0]:
                goals.pop(0)
                worker.kill()
                worker = start("llm_worker", **PACED)
    assert goals == []
    check_whole("anthropic", events)
    assert not any(event.id for event in events)


@pytest.mark.parametrize("name", list(PATHS))
async def test_a_resumable_stream_goes_on_elsewhere_when_all_that_served_it_are_killed(
    start: Starter, session: aiohttp.ClientSession, name: str
) -> None:
    fronts = [start("orchestrator", **PATIENT) for _ in range(2)]
    worker = start("llm_worker", **PACED)
    events: list[SseEvent] = []

    async def read(response: aiohttp.ClientResponse, count: int) -> None:
        assert response.status == 200, events[-1:]
        async for event in sse_events(response):
            events.append(event)
            if len(events) >= count:
                return

    request = session.post(f"{fronts[0].url}{PATHS[name]}", json=asked(name), headers=RESUMABLE)
    async with request as response:
        await read(response, 60)
        path = response.headers["X-Relais-Events-Url"]
    for count in (150, 250, 10**9):
        fronts.pop(0).kill()
        worker.kill()
        worker = start("llm_worker", **PACED)
        fronts.append(start("orchestrator", **PATIENT))
        last = next(event.id for event in reversed(events) if event.id)
        headers = {"Last-Event-ID": last}
        async with session.get(f"{fronts[0].url}{path}", headers=headers) as response:
            await read(response, count)
    check_whole(name, events)
    ids = [event.id for event in events if event.id]
    assert len(set(ids)) == len(ids)
    # Whoever reads it afterwards gets the same frames.
    async with session.get(f"{fronts[-1].url}{path}") as response:
        again = [event async for event in sse_events(response) if event.id]
    assert again == [event for event in events if event.id]
