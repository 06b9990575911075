"""Workers killed, frozen and stopped as real processes: what they held goes on elsewhere, and nowhere twice."""

from __future__ import annotations

import asyncio
import json
import signal

import aiohttp
import pytest

from relais_testing.native_client import events_url, state_of, submit
from relais_testing.ports import let_deadline_pass, let_leases_pass
from relais_testing.process_stack import DETERMINISTIC, MODEL, Starter
from relais_testing.processes import ServiceProcess
from relais_testing.sse_client import ids_of, read_events
from relais_testing.streams import SLOW, begin, check_whole, go_on_faster
from relais_testing.valkey import ValkeyServer
from relais_testing.waiting import wait_until

PACED = {**DETERMINISTIC, "DETERMINISTIC_TOKENS_PER_S": "100"}
# No lease runs out within a test: what moves was handed over.
PATIENT = {"LEASE_S": "300"}


def said(worker: ServiceProcess, event: str) -> bool:
    return f'"{event}"' in worker.log_path.read_text()


async def test_streams_of_a_killed_worker_go_on_over_the_same_connection(
    start: Starter, session: aiohttp.ClientSession
) -> None:
    front = start("orchestrator")
    doomed = start("llm_worker", **PACED)
    readers = [await begin(session, front, f"stream {number}") for number in range(8)]
    doomed.kill()
    start("llm_worker", **PACED)
    for number, reader in enumerate(readers):
        check_whole(await reader, f"stream {number}")


async def test_streams_that_lost_their_places_to_others_are_whole_though_workers_are_killed(
    start: Starter, session: aiohttp.ClientSession
) -> None:
    front = start("orchestrator")
    narrow = {**SLOW, "VLLM_MAX_NUM_SEQS": "3"}
    workers = [start("llm_worker", **narrow) for _ in range(2)]
    readers = [await begin(session, front, f"flood {number}") for number in range(6)]
    async with aiohttp.ClientSession(headers={"Authorization": "Bearer victim"}) as victim:
        for number in range(6):
            if number == 3:
                workers.pop(0).kill()
            channel_id = await submit(victim, front.url, f"short {number}", 5)
            events = await read_events(victim, events_url(front.url, channel_id))
            check_whole(events, f"short {number}", 5)
            # None of the long ones had to end for it.
            assert number or not any(reader.done() for reader in readers)
    assert any(said(worker, "job_preempted") for worker in workers)
    await go_on_faster(start, workers[0])
    for number, reader in enumerate(readers):
        check_whole(await reader, f"flood {number}")


async def test_one_stream_outlives_worker_after_worker(
    start: Starter, session: aiohttp.ClientSession
) -> None:
    front = start("orchestrator")
    worker = start("llm_worker", **SLOW)
    channel_id = await submit(session, front.url, "hunted", 600)
    url = events_url(front.url, channel_id)
    reader = asyncio.create_task(read_events(session, url))
    await read_events(session, url, stop_after=20)
    for _ in range(4):
        worker.kill()
        tail = (await state_of(session, front.url, channel_id))["last_event_id"]
        worker = start("llm_worker", **SLOW)
        # A worker that dies before it adds to the answer is charged to the job: let each add a little.
        await read_events(session, url, after=tail, stop_after=10)
    await go_on_faster(start, worker)
    check_whole(await reader, "hunted", 600)


WORDS = " ".join(f"mot-{number} à l'été" for number in range(120))
CALL = f'<tool_call>{{"name": "note", "arguments": {{"words":"{WORDS}"}}}}</tool_call>'
TOOL = {"type": "function", "function": {"name": "note", "parameters": {"type": "object"}}}


@pytest.mark.parametrize(
    ("said", "field"),
    [(CALL, "tool_calls"), (f"<think>{WORDS}</think>So.{CALL}", "reasoning")],
    ids=["arguments", "reasoning"],
)
async def test_a_stream_cut_within_a_call_or_its_reasoning_goes_on_to_the_letter(
    start: Starter, session: aiohttp.ClientSession, said: str, field: str
) -> None:
    front = start("orchestrator")
    worker = start("llm_worker", **PACED)
    body = {
        "model": MODEL,
        "messages": [{"role": "user", "content": f"[say]{said}[/say]"}],
        "tools": [TOOL],
    }
    async with session.post(f"{front.url}/v1/requests", json=body) as response:
        channel_id = (await response.json())["channel_id"]
    url = events_url(front.url, channel_id)
    whole = asyncio.create_task(read_events(session, url))
    seen = await read_events(session, url, stop_after=60)
    for _ in range(2):
        assert field in seen[-1].json, "it was to be cut there"
        worker.kill()
        worker = start("llm_worker", **PACED)
        tail = (await state_of(session, front.url, channel_id))["last_event_id"]
        seen = await read_events(session, url, after=tail, stop_after=40)
    events = await whole
    assert ids_of(events) == list(range(1, len(events) + 1))
    tokens = [event.json for event in events if event.name == "token"]
    parts = [part for one in tokens for part in one.get("tool_calls", ())]
    assert [part["id"] for part in parts if "id" in part] == [parts[0]["id"]]
    arguments = "".join(part["function"].get("arguments", "") for part in parts)
    assert json.loads(arguments) == {"words": WORDS}
    (call,) = events[-1].json["message"]["tool_calls"]
    assert call["id"] == parts[0]["id"]
    assert json.loads(call["function"]["arguments"]) == {"words": WORDS}
    reasoning = "".join(one.get("reasoning", "") for one in tokens)
    assert reasoning == (WORDS if field == "reasoning" else "")
    assert events[-1].json["finish_reason"] == "tool_calls"


async def test_a_crash_with_a_full_house_sets_nobody_aside(
    start: Starter, session: aiohttp.ClientSession, redis: ValkeyServer
) -> None:
    """60 jobs, of which the engine had given nothing yet: each is charged once, run alone, and completes."""
    front = start("orchestrator")
    doomed = start("llm_worker", **DETERMINISTIC, **PATIENT, DETERMINISTIC_TOKENS_PER_S="0.01")
    prompts = [f"passenger {number}" for number in range(60)]
    channels = [await submit(session, front.url, prompt, 5) for prompt in prompts]
    for channel_id in channels:
        await read_events(session, events_url(front.url, channel_id), stop_after=2)
    doomed.kill()
    await let_leases_pass(redis.url, MODEL)
    start("llm_worker", **DETERMINISTIC)
    for prompt, channel_id in zip(prompts, channels, strict=True):
        check_whole(await read_events(session, events_url(front.url, channel_id)), prompt, 5)


async def test_a_thawed_worker_adds_nothing_to_a_stream_that_moved_and_works_on(
    start: Starter, session: aiohttp.ClientSession
) -> None:
    front = start("orchestrator")
    frozen = start("llm_worker", **SLOW)
    readers = [await begin(session, front, f"frozen {number}", 400) for number in range(4)]
    frozen.signal(signal.SIGSTOP)
    heir = start("llm_worker", **PACED)
    await wait_until(lambda: said(heir, "job_continued"))
    frozen.signal(signal.SIGCONT)
    for number, reader in enumerate(readers):
        check_whole(await reader, f"frozen {number}", 400)
    await wait_until(lambda: said(frozen, "lease_lost"))
    # Its generations were aborted, and it serves what is new.
    assert heir.terminate() == 0
    after = await begin(session, front, "after the thaw", 50)
    check_whole(await after, "after the thaw", 50)


async def test_a_drained_worker_hands_over_at_once_what_does_not_fit(
    start: Starter, session: aiohttp.ClientSession
) -> None:
    front = start("orchestrator", **PATIENT)
    leaving = start("llm_worker", **PACED, **PATIENT, DRAIN_S="0.5")
    readers = [await begin(session, front, f"moved {number}", 500) for number in range(4)]
    short = await begin(session, front, "short", 40)
    start("llm_worker", **PACED, **PATIENT)
    assert leaving.terminate() == 0
    check_whole(await short, "short", 40)
    for number, reader in enumerate(readers):
        check_whole(await reader, f"moved {number}", 500)


async def test_a_dead_engine_hands_everything_back_at_once_and_its_worker_exits_with_1(
    start: Starter, session: aiohttp.ClientSession
) -> None:
    front = start("orchestrator", **PATIENT)
    struck = start("llm_worker", **PACED, **PATIENT)
    bystanders = [await begin(session, front, f"bystander {number}") for number in range(4)]
    poison = await submit(session, front.url, "[engine-death]", 10)
    assert struck.wait() == 1
    for _ in range(2):
        # It is run alone, by workers with nothing else to do; each dies of it.
        assert start("llm_worker", wait=False, **PACED, **PATIENT).wait() == 1
    state = await state_of(session, front.url, poison)
    assert (state["status"], state["error"]["code"]) == ("failed", "worker_lost")
    start("llm_worker", **PACED, **PATIENT)
    for number, reader in enumerate(bystanders):
        check_whole(await reader, f"bystander {number}")


@pytest.mark.parametrize("method", ["DELETE", "deadline"])
async def test_a_stop_reaches_a_job_whose_worker_died_before_it_heard(
    start: Starter, session: aiohttp.ClientSession, redis: ValkeyServer, method: str
) -> None:
    front = start("orchestrator")
    doomed = start("llm_worker", **PACED)
    channel_id = await submit(session, front.url, "stopped", 5000)
    url = events_url(front.url, channel_id)
    await read_events(session, url, stop_after=20)
    doomed.signal(signal.SIGSTOP)
    if method == "DELETE":
        async with session.delete(url.removesuffix("/events")) as response:
            assert response.status in (200, 202)  # it waits for another worker by now
    else:
        await let_deadline_pass(redis.url, channel_id)
    events = await read_events(session, url)
    assert events[-1].name == ("cancelled" if method == "DELETE" else "expired")
    doomed.signal(signal.SIGCONT)
    await wait_until(lambda: said(doomed, "lease_lost"))
    assert await read_events(session, url) == events
