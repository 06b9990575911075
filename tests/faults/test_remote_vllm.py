"""Models behind real `vllm serve`: streams, cancels, and a server killed in the middle of its answers."""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any

import aiohttp
import psutil
import pytest

from relais_testing.native_client import events_url
from relais_testing.process_stack import MODEL, Starter, VllmStarter
from relais_testing.processes import ServiceProcess
from relais_testing.sse_client import SseEvent, ids_of, read_events, text_of
from relais_testing.waiting import LIVENESS_S, wait_until

pytestmark = [pytest.mark.vllm, pytest.mark.slow, pytest.mark.timeout(900)]

# Long enough to be cut, and none is cut short by the model's own end.
LONG = {"temperature": 0, "max_tokens": 600, "ignore_eos": True}
REMARKS = [
    "La salle d'attente de la mairie de Lyon était propre, merci.",
    "Le guichet de la préfecture à Besançon était fermé à midi.",
    "J'ai attendu très longtemps à l'hôpital de Nîmes.",
    "The website of the tax office does not work.",
]
_METRIC = re.compile(r"^vllm:(\w+)\{([^}]*)\} (\S+)$", re.MULTILINE)


def kill_all(server: ServiceProcess) -> None:
    """Kill a server, and wait for its engine, which has the port too until it notices."""
    engine = server.descendants()
    server.kill()
    psutil.wait_procs(engine, LIVENESS_S)


async def metric(
    session: aiohttp.ClientSession, server: ServiceProcess, name: str, **labels: str
) -> float:
    """One of vLLM's counts of its own requests."""
    async with session.get(f"{server.url}/metrics") as response:
        page = await response.text()
    return sum(
        float(value)
        for found, given, value in _METRIC.findall(page)
        if found == name and all(f'{key}="{word}"' in given for key, word in labels.items())
    )


async def submit(
    session: aiohttp.ClientSession, base_url: str, remark: str, **params: object
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


async def whole(session: aiohttp.ClientSession, base_url: str, channel_id: str) -> list[SseEvent]:
    events = await read_events(session, events_url(base_url, channel_id))
    assert ids_of(events) == list(range(1, len(events) + 1))
    assert events[-1].name == "completed", events[-1]
    ids = [one for event in events if event.name == "token" for one in event.json["token_ids"]]
    assert events[-1].json["usage"]["output_tokens"] == len(ids)
    return events


async def test_streams_share_the_servers_and_survive_the_death_of_one(
    start: Starter, start_vllm: VllmStarter, session: aiohttp.ClientSession
) -> None:
    front = start("orchestrator")
    one = start_vllm(wait=False)
    two = start_vllm()
    one.wait_ready()
    worker = start(
        "llm_worker",
        ENGINE="remote",
        LLM_TABLE=repr([(MODEL, one.url), (MODEL, f"{two.url}/v1")]),
        REMOTE_MAX_CONCURRENCY="4",
        REMOTE_PROBE_EVERY_S="0.5",
    )
    undisturbed = {}
    for remark in REMARKS:
        channel_id = await submit(session, front.url, remark)
        undisturbed[remark] = text_of(await whole(session, front.url, channel_id))
    text = undisturbed[REMARKS[0]]
    # Far into the answer, so that it follows the cut.
    stop = text[len(text) * 2 // 3 : len(text) * 2 // 3 + 24]
    asks: list[tuple[str, dict[str, Any]]] = [(remark, {}) for remark in REMARKS]
    asks.append((REMARKS[0], {"stop": [stop]}))
    wanted = [
        await submit(session, front.url, remark, **params)
        for _ in range(4)
        for remark, params in asks
    ]

    async def both_are_at_it() -> bool:
        loads = [await metric(session, server, "num_requests_running") for server in (one, two)]
        return min(loads) >= 2

    await wait_until(both_are_at_it)
    await asyncio.to_thread(kill_all, one)
    answers = await asyncio.gather(*(whole(session, front.url, channel) for channel in wanted))
    for events, (remark, params) in zip(answers, asks * 4, strict=True):
        if params:
            assert text_of(events) == text.partition(stop)[0]
            assert events[-1].json["stop_reason"] == stop
        else:
            assert text_of(events) == undisturbed[remark]
    tries = [json.loads(line) for line in worker.log_path.read_text().splitlines()]
    cut = [line["tokens"] for line in tries if line["event"] == "server_try_failed"]
    assert any(0 < tokens < 600 for tokens in cut), f"none was cut in the middle: {cut}"
    # And back again: both are asked.
    again = start_vllm(PORT=str(one.port))

    async def both_are_back() -> bool:
        async with session.get(f"{front.url}/v1/models/{MODEL}") as response:
            capacity: int = (await response.json())["relais"]["capacity"]
            return capacity == 8

    await wait_until(both_are_back)
    channels = [await submit(session, front.url, remark) for remark in REMARKS * 2]

    async def used() -> bool:
        names = ("num_requests_running", "generation_tokens_total")
        # One token is the probe's.
        return max([await metric(session, again, name) for name in names]) > 1

    await wait_until(used)
    for remark, channel_id in zip(REMARKS * 2, channels, strict=True):
        assert text_of(await whole(session, front.url, channel_id)) == undisturbed[remark]


async def test_cancel_refusal_and_the_only_server_s_death(
    start: Starter, start_vllm: VllmStarter, session: aiohttp.ClientSession
) -> None:
    front = start("orchestrator")
    server = start_vllm()
    settings = {"ENGINE": "remote", "LLM_TABLE": repr([(MODEL, server.url)])}
    start("llm_worker", **settings, REMOTE_PROBE_EVERY_S="0.5")

    async def running() -> float:
        return await metric(session, server, "num_requests_running")

    # A cancel reaches vLLM's engine.
    channel_id = await submit(session, front.url, REMARKS[0])
    await read_events(session, events_url(front.url, channel_id), stop_after=5)
    assert await running() == 1
    async with session.delete(f"{front.url}/v1/channels/{channel_id}") as response:
        assert response.status in (200, 202), await response.text()

    async def aborted() -> bool:
        return await running() == 0

    await wait_until(aborted)
    events = await read_events(session, events_url(front.url, channel_id))
    assert events[-1].name == "cancelled"
    assert sum(event.name == "token" for event in events) < 500

    # What the server refuses is the client's error, by its field.
    for params, field in (
        ({"logit_bias": {"99999": 1.0}}, "logit_bias"),
        ({"max_tokens": 5000}, "max_tokens"),
    ):
        channel_id = await submit(session, front.url, REMARKS[0], **params)
        (*_, last) = await read_events(session, events_url(front.url, channel_id))
        error = last.json["error"]
        assert (last.name, error["status"], error["param"]) == ("failed", 400, field)

    # The only server dies; the worker lives, and its stream goes on once the server is back.
    channel_id = await submit(session, front.url, REMARKS[1])
    undisturbed = text_of(await whole(session, front.url, channel_id))
    channel_id = await submit(session, front.url, REMARKS[1])
    await read_events(session, events_url(front.url, channel_id), stop_after=5)
    await asyncio.to_thread(kill_all, server)
    await asyncio.to_thread(start_vllm, PORT=str(server.port))
    assert text_of(await whole(session, front.url, channel_id)) == undisturbed
