"""Real vLLM, killed in the middle of its answers: another worker goes on, to the letter."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from relais_testing.native_client import events_url, state_of
from relais_testing.process_stack import MODEL, VLLM_ON_CPU, Starter
from relais_testing.sse_client import SseEvent, ids_of, read_events, text_of
from relais_testing.waiting import LIVENESS_S

pytestmark = [pytest.mark.vllm, pytest.mark.slow, pytest.mark.timeout(900)]

# Long enough to be cut, and none is cut short by the model's own end.
LONG = {"temperature": 0, "max_tokens": 600, "ignore_eos": True}
# An event of a busy worker holds many tokens: thirty may be the whole answer.
FEW_EVENTS = 5
REMARKS = [
    "La salle d'attente de la mairie de Lyon était propre, merci.",
    "Le guichet de la préfecture à Besançon était fermé à midi.",
    "J'ai attendu très longtemps à l'hôpital de Nîmes.",
    "The website of the tax office does not work.",
]


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=LIVENESS_S)) as session:
        yield session


async def submit(
    session: aiohttp.ClientSession, base_url: str, remark: str, params: dict[str, Any]
) -> str:
    body = {
        "model": MODEL,
        "messages": [{"role": "user", "content": remark}],
        "params": {**LONG, **params},
    }
    async with session.post(f"{base_url}/v1/requests", json=body) as response:
        assert response.status == 202, await response.text()
        channel_id: str = (await response.json())["channel_id"]
        return channel_id


async def test_answers_cut_by_a_kill_are_those_that_were_not_cut(
    start: Starter, session: aiohttp.ClientSession
) -> None:
    front = start("orchestrator")
    settings = {**VLLM_ON_CPU, "VLLM_MAX_NUM_SEQS": "16"}
    doomed = start("llm_worker", **settings)

    async def whole(remark: str, params: dict[str, Any]) -> list[SseEvent]:
        channel_id = await submit(session, front.url, remark, params)
        return await read_events(session, events_url(front.url, channel_id))

    undisturbed = {remark: await whole(remark, {}) for remark in REMARKS}
    text = text_of(undisturbed[REMARKS[0]])
    # Far into the answer, so that it follows the cut.
    stop = text[len(text) * 2 // 3 : len(text) * 2 // 3 + 24]
    wanted: list[tuple[str, dict[str, Any], str | None]] = [
        *((remark, {}, text_of(undisturbed[remark])) for remark in REMARKS),
        (REMARKS[0], {"stop": [stop]}, text.partition(stop)[0]),
        (REMARKS[1], {"repetition_penalty": 1.05, "max_tokens": 500}, None),
    ]
    penalised = text_of(await whole(REMARKS[1], {"repetition_penalty": 1.05, "max_tokens": 500}))
    channels = [await submit(session, front.url, remark, params) for remark, params, _ in wanted]
    begun = await asyncio.gather(
        *(
            read_events(session, events_url(front.url, channel_id), stop_after=FEW_EVENTS)
            for channel_id in channels
        )
    )
    doomed.kill()
    states = [await state_of(session, front.url, one) for one in channels]
    # One whose lease is over by now waits for another worker.
    cut = [state["status"] in ("running", "queued") for state in states]
    assert sum(cut) >= 4, "they were to be cut in the middle"
    heir = start("llm_worker", **settings)
    for (_, _, expected), channel_id, seen in zip(wanted, channels, begun, strict=True):
        rest = await read_events(session, events_url(front.url, channel_id), after=int(seen[-1].id))
        events = seen + rest
        assert ids_of(events) == list(range(1, len(events) + 1))
        assert events[-1].name == "completed", events[-1]
        assert text_of(events) == (penalised if expected is None else expected)
        ids = [one for event in events if event.name == "token" for one in event.json["token_ids"]]
        assert events[-1].json["usage"]["output_tokens"] == len(ids)
    # Which of them, not how often: a machine that stands still for a whole lease makes the heir its own heir.
    told = [line for line in heir.log_path.read_text().splitlines() if '"job_continued"' in line]
    assert len({json.loads(line)["channel_id"] for line in told}) == sum(cut)


async def test_a_killed_engine_process_ends_its_worker_and_no_answer(
    start: Starter, session: aiohttp.ClientSession
) -> None:
    patient = {"LEASE_S": "300"}  # what moves was handed over
    front = start("orchestrator", **patient)
    struck = start("llm_worker", **VLLM_ON_CPU, **patient)
    whole = await submit(session, front.url, REMARKS[1], {})
    undisturbed = text_of(await read_events(session, events_url(front.url, whole)))
    engine = max(struck.descendants(), key=lambda one: one.memory_info().rss)
    url = events_url(front.url, await submit(session, front.url, REMARKS[1], {}))
    reading = asyncio.create_task(read_events(session, url))
    await read_events(session, url, stop_after=FEW_EVENTS)
    engine.kill()
    assert struck.wait() == 1
    start("llm_worker", **VLLM_ON_CPU, **patient)
    events = await reading
    assert ids_of(events) == list(range(1, len(events) + 1))
    assert (events[-1].name, text_of(events)) == ("completed", undisturbed)
