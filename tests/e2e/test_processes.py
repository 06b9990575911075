"""Two orchestrators and two workers as processes on one Redis, and what happens when one is killed."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from relais_llm_worker.engines.engine_deterministic import answer_text
from relais_testing.process_stack import DETERMINISTIC, MODEL, MORTAL, Starter
from relais_testing.sse_client import ids_of, read_events, text_of
from relais_testing.waiting import LIVENESS_S, wait_until


def expected_answer(prompt: str, tokens: int) -> str:
    return answer_text(list(prompt.encode()), tokens)


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=LIVENESS_S)) as session:
        yield session


async def submit(
    session: aiohttp.ClientSession, base_url: str, prompt: str, tokens: int, **fields: object
) -> dict[str, Any]:
    body = {"model": MODEL, "prompt": prompt, "params": {"max_tokens": tokens}, **fields}
    async with session.post(f"{base_url}/v1/requests", json=body) as response:
        assert response.status == 202, await response.text()
        accepted: dict[str, Any] = await response.json()
        return accepted


async def test_any_orchestrator_serves_any_channel_of_any_worker(
    start: Starter, session: aiohttp.ClientSession
) -> None:
    fronts = [start("orchestrator"), start("orchestrator")]
    for _ in range(2):
        start("llm_worker", **DETERMINISTIC, VLLM_MAX_NUM_SEQS="4")

    async def one(index: int) -> None:
        prompt = f"request {index}"
        accepted = await submit(session, fronts[index % 2].url, prompt, 40)
        events = await read_events(session, fronts[1 - index % 2].url + accepted["events_url"])
        assert ids_of(events) == list(range(1, len(events) + 1))
        assert text_of(events) == expected_answer(prompt, 40)

    await asyncio.gather(*(one(index) for index in range(40)))


async def test_a_late_subscriber_gets_everything(
    start: Starter, session: aiohttp.ClientSession
) -> None:
    front = start("orchestrator")
    start("llm_worker", **DETERMINISTIC)
    accepted = await submit(session, front.url, "late", 50)
    channel_url = f"{front.url}/v1/channels/{accepted['channel_id']}"

    async def status() -> str:
        async with session.get(channel_url) as response:
            state: dict[str, str] = await response.json()
            return state["status"]

    async def completed() -> bool:
        return await status() == "completed"

    await wait_until(completed)
    events = await read_events(session, front.url + accepted["events_url"])
    assert text_of(events) == expected_answer("late", 50)


async def test_what_a_killed_worker_had_not_begun_is_done_by_another(
    start: Starter, session: aiohttp.ClientSession
) -> None:
    front = start("orchestrator")
    # So slow that nothing comes before the kill.
    doomed = start("llm_worker", **DETERMINISTIC | MORTAL, DETERMINISTIC_TOKENS_PER_S="0.01")
    accepted = await submit(session, front.url, "second chance", 20)
    events_url = front.url + accepted["events_url"]
    started = await read_events(session, events_url, stop_after=2)
    assert started[-1].name == "started"
    doomed.kill()
    start("llm_worker", **DETERMINISTIC)
    events = await read_events(session, events_url)
    assert [event.name for event in events].count("started") == 1
    assert text_of(events) == expected_answer("second chance", 20)


async def test_a_request_that_was_set_aside_is_answered_once_it_is_replayed(
    start: Starter, session: aiohttp.ClientSession
) -> None:
    front = start("orchestrator", MAX_FAILURES="1")
    # So slow that nothing comes before the kill.
    doomed = start("llm_worker", **DETERMINISTIC | MORTAL, DETERMINISTIC_TOKENS_PER_S="0.01")
    accepted = await submit(session, front.url, "set aside", 20)
    events_url = front.url + accepted["events_url"]
    await read_events(session, events_url, stop_after=2)
    doomed.kill()
    events = await read_events(session, events_url)
    assert [event.name for event in events] == ["queued", "started", "failed"]
    assert events[-1].json["error"]["code"] == "worker_lost"

    start("llm_worker", **DETERMINISTIC)
    letter_url = f"{front.url}/v1/admin/dead-letters/{accepted['channel_id']}"
    async with session.post(f"{letter_url}/replay") as response:
        assert response.status == 202, await response.text()
        replayed = (await response.json())["channel_id"]
    events = await read_events(session, f"{front.url}/v1/channels/{replayed}/events")
    assert events[-1].name == "completed"
    assert text_of(events) == expected_answer("set aside", 20)


async def test_a_terminated_worker_finishes_what_it_holds_and_exits_with_0(
    start: Starter, session: aiohttp.ClientSession
) -> None:
    front = start("orchestrator")
    worker = start("llm_worker", **DETERMINISTIC, DETERMINISTIC_TOKENS_PER_S="100")
    accepted = await submit(session, front.url, "last one", 100)
    await read_events(session, front.url + accepted["events_url"], stop_after=5)
    worker.signal(signal.SIGTERM)
    events = await read_events(session, front.url + accepted["events_url"])
    assert text_of(events) == expected_answer("last one", 100)
    assert worker.wait() == 0
