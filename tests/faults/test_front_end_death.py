"""Orchestrators killed or terminated under open streams: what clients see, and what becomes of the work."""

from __future__ import annotations

import asyncio
import json
import logging
import signal
from typing import Any

import aiohttp
import openai
import pytest
from redis.asyncio import Redis

from relais_common.queue import keys
from relais_llm_worker.engines.engine_deterministic import answer_text
from relais_testing.native_client import events_url, state_of, submit
from relais_testing.one_way import open_link
from relais_testing.process_stack import DETERMINISTIC, MODEL, Starter
from relais_testing.processes import ServiceProcess
from relais_testing.sse_client import SseEvent, ids_of, read_events, sse_events, text_of
from relais_testing.streams import SLOW, go_on_faster
from relais_testing.tcp_ports import HOST
from relais_testing.valkey import ValkeyServer
from relais_testing.waiting import LIVENESS_S, wait_until
from resuming_client import Event, ask, text_after

ENDLESS = 50_000


def completion(prompt: str, tokens: int) -> dict[str, Any]:
    return {"model": MODEL, "prompt": prompt, "max_tokens": tokens, "stream": True}


def expected_answer(prompt: str, tokens: int) -> str:
    return answer_text(list(prompt.encode()), tokens)


class Client:
    """Somebody who uses the example client."""

    def __init__(self, prompt: str, tokens: int, *fronts: ServiceProcess) -> None:
        self.prompt = prompt
        self.tokens = tokens
        self._urls = [front.url for front in fronts]
        self.events: list[Event] = []

    async def run(self) -> None:
        params = {"max_tokens": self.tokens}
        body = {"model": MODEL, "prompt": self.prompt, "params": params}
        async for event in ask(self._urls, body, patience_s=LIVENESS_S):
            self.events.append(event)

    def check_that_nothing_is_missing_or_doubled(self) -> None:
        numbered = [event for event in self.events if event.id is not None]
        assert [event.id for event in numbered] == list(range(1, len(numbered) + 1))
        assert [event.name for event in numbered if event.name != "token"] == [
            "queued",
            "started",
            "completed",
        ]
        text = ""
        for event in self.events:
            text = text_after(text, event)
        assert text == expected_answer(self.prompt, self.tokens)


async def test_clients_miss_nothing_though_every_orchestrator_is_killed_twice(
    start: Starter, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "resuming_client")
    long_leases = {"LEASE_S": "300"}  # of a worker that stands still meanwhile
    fronts = [start("orchestrator", **long_leases) for _ in range(2)]
    slow = start("llm_worker", **SLOW, **long_leases, VLLM_MAX_NUM_SEQS="16")
    clients = [Client(f"client {i}", 600, fronts[i % 2], fronts[1 - i % 2]) for i in range(8)]

    async def all_go_on() -> None:
        goals = [len(client.events) + 15 for client in clients]
        await wait_until(
            lambda: all(len(c.events) >= goal for c, goal in zip(clients, goals, strict=True)),
        )

    async with asyncio.TaskGroup() as group:
        running = [group.create_task(client.run()) for client in clients]
        for victim in (0, 1, 0, 1):
            await all_go_on()
            assert not any(task.done() for task in running)
            fronts[victim].kill()
            await all_go_on()
            # However long a start takes on this machine, the answers are not over before the next kill.
            slow.signal(signal.SIGSTOP)
            fronts[victim] = await asyncio.to_thread(
                start, "orchestrator", **long_leases, API_PORT=str(fronts[victim].port)
            )
            slow.signal(signal.SIGCONT)
        await go_on_faster(start, slow, **long_leases)
    for client in clients:
        client.check_that_nothing_is_missing_or_doubled()
    cuts = [record for record in caplog.records if "retrying" in record.message]
    assert len(cuts) >= 4 + 8 + 8 + 8


async def test_orchestrator_killed_between_the_queue_and_its_202_leaves_one_request(
    start: Starter, redis: ValkeyServer, session: aiohttp.ClientSession
) -> None:
    async with open_link(redis.port) as (link, port), Redis.from_url(redis.url) as queue:
        doomed = await asyncio.to_thread(start, "orchestrator", REDIS_URL=f"redis://{HOST}:{port}")
        other = start("orchestrator")

        async def jobs() -> int:
            return len(await queue.keys(f"{keys.model_base(MODEL)}:job:*"))

        # Redis has the script after this: the next request to it is a single message.
        await submit(session, other.url, "first", 1)
        link.keep_answers_from(b"cut between")
        client = Client("cut between", 40, doomed, other)
        running = asyncio.create_task(client.run())

        async def second_is_queued() -> bool:
            return await jobs() == 2

        await wait_until(second_is_queued)
        assert client.events == []
        doomed.kill()
        await wait_until(lambda: client.events)
        start("llm_worker", **DETERMINISTIC)
        await running
        assert await jobs() == 2
    client.check_that_nothing_is_missing_or_doubled()


async def check_that_the_place_is_free(
    session: aiohttp.ClientSession, front: ServiceProcess, channel_id: str
) -> None:
    async def cancelled() -> bool:
        return bool((await state_of(session, front.url, channel_id))["status"] == "cancelled")

    await wait_until(cancelled)
    next_id = await submit(session, front.url, "next", 5)
    events = await read_events(session, events_url(front.url, next_id))
    assert text_of(events) == expected_answer("next", 5)


async def test_openai_stream_of_a_killed_orchestrator_breaks_off_and_its_work_stops(
    start: Starter, session: aiohttp.ClientSession
) -> None:
    first, second = start("orchestrator"), start("orchestrator")
    start("llm_worker", **SLOW, VLLM_MAX_NUM_SEQS="1")
    seen: list[SseEvent] = []
    async with session.post(
        f"{first.url}/v1/completions", json=completion("cut", ENDLESS)
    ) as response:
        with pytest.raises(aiohttp.ClientError):
            async for event in sse_events(response):
                seen.append(event)
                if len(seen) == 20:
                    first.kill()
    assert len(seen) >= 20
    for event in seen:
        assert event.json["choices"][0]["finish_reason"] is None
    await check_that_the_place_is_free(session, second, response.headers["X-Request-Id"])


async def test_openai_client_of_a_killed_orchestrator_gets_a_connection_error(
    start: Starter, session: aiohttp.ClientSession
) -> None:
    first, second = start("orchestrator"), start("orchestrator")
    start("llm_worker", **SLOW, VLLM_MAX_NUM_SEQS="1")
    seen = 0
    session.headers["Authorization"] = "Bearer any"  # that client has to have a key
    async with openai.AsyncOpenAI(
        base_url=f"{first.url}/v1", api_key="any", max_retries=0
    ) as client:
        stream = await client.completions.create(
            model=MODEL, prompt="cut", max_tokens=ENDLESS, stream=True
        )
        with pytest.raises(openai.APIConnectionError):
            async for _ in stream:
                seen += 1
                if seen == 20:
                    first.kill()
        channel_id = stream.response.headers["X-Request-Id"]
    await check_that_the_place_is_free(session, second, channel_id)


async def let_watch_leases_run_out(redis: ValkeyServer, channel_id: str, times: int) -> None:
    """Wait for a reaper to find so often that a lease which its watcher did not renew is over."""
    async with Redis.from_url(redis.url) as queue:

        async def lease_end() -> float | None:
            end: float | None = await queue.zscore(keys.watched(MODEL), channel_id)
            return end

        for _ in range(times):
            before = await lease_end()
            assert before is not None

            async def is_over(before: float = before) -> bool:
                return await lease_end() != before

            await wait_until(is_over)
        assert await lease_end() is not None


async def test_client_of_a_frozen_orchestrator_gets_its_answer_to_the_letter(
    start: Starter, session: aiohttp.ClientSession, redis: ValkeyServer
) -> None:
    frozen = start("orchestrator")
    start("orchestrator")
    slow = start("llm_worker", **SLOW)
    tokens = 500
    async with session.post(
        f"{frozen.url}/v1/completions", json=completion("frozen", tokens)
    ) as response:
        stream, text = sse_events(response), ""
        async for event in stream:
            text += event.json["choices"][0]["text"]
            if len(text) > 100:
                break
        frozen.signal(signal.SIGSTOP)
        await let_watch_leases_run_out(redis, response.headers["X-Request-Id"], 2)
        frozen.signal(signal.SIGCONT)
        await go_on_faster(start, slow)
        finish_reason = None
        async for event in stream:
            if event.data == "[DONE]":
                break
            (choice,) = event.json["choices"]
            text, finish_reason = text + choice["text"], choice["finish_reason"]
    assert finish_reason == "length"
    assert text == expected_answer("frozen", tokens)


async def test_work_of_an_orchestrator_that_was_frozen_and_then_killed_stops(
    start: Starter, session: aiohttp.ClientSession, redis: ValkeyServer
) -> None:
    frozen, other = start("orchestrator"), start("orchestrator")
    start("llm_worker", **SLOW, VLLM_MAX_NUM_SEQS="1")
    async with session.post(
        f"{frozen.url}/v1/completions", json=completion("frozen", ENDLESS)
    ) as response:
        async for _ in sse_events(response):
            break
        channel_id = response.headers["X-Request-Id"]
        frozen.signal(signal.SIGSTOP)
        await let_watch_leases_run_out(redis, channel_id, 1)
        assert (await state_of(session, other.url, channel_id))["status"] == "running"
        frozen.kill()
        await check_that_the_place_is_free(session, other, channel_id)


async def is_draining(session: aiohttp.ClientSession, front: ServiceProcess) -> bool:
    async with session.get(f"{front.url}/readyz") as response:
        return response.status == 503


async def test_terminated_orchestrator_sends_native_readers_on_and_finishes_openai_streams(
    start: Starter, session: aiohttp.ClientSession
) -> None:
    first, second = start("orchestrator", DRAIN_S="100"), start("orchestrator")
    slow = start("llm_worker", **SLOW)
    moving = await submit(session, first.url, "moves on", 250)
    native = asyncio.create_task(read_events(session, events_url(first.url, moving)))
    async with session.post(
        f"{first.url}/v1/completions", json=completion("stays", 250)
    ) as response:
        openai_events = sse_events(response)
        data = [(await anext(openai_events)).data]
        first.signal(signal.SIGTERM)
        await wait_until(lambda: is_draining(session, first))
        seen = await native
        assert not response.content.at_eof()
        await go_on_faster(start, slow)
        data += [event.data async for event in openai_events]
    assert data[-1] == "[DONE]"
    chunks = [json.loads(item)["choices"][0] for item in data[:-1]]
    assert "".join(chunk["text"] for chunk in chunks) == expected_answer("stays", 250)
    assert first.wait() == 0
    assert seen[-1].name == "token"
    seen += await read_events(session, events_url(second.url, moving), after=int(seen[-1].id))
    assert ids_of(seen) == list(range(1, len(seen) + 1))
    assert text_of(seen) == expected_answer("moves on", 250)


async def test_openai_stream_that_outlasts_the_drain_ends_with_an_error_and_its_work_stops(
    start: Starter, session: aiohttp.ClientSession
) -> None:
    first, second = start("orchestrator", DRAIN_S="1"), start("orchestrator")
    start("llm_worker", **SLOW, VLLM_MAX_NUM_SEQS="1")
    async with session.post(
        f"{first.url}/v1/completions", json=completion("too long", ENDLESS)
    ) as response:
        openai_events = sse_events(response)
        await anext(openai_events)
        first.signal(signal.SIGTERM)
        data = [event.data async for event in openai_events]
    assert json.loads(data[-1])["error"]["code"] == "draining"
    assert "[DONE]" not in data
    assert first.wait() == 0
    await check_that_the_place_is_free(session, second, response.headers["X-Request-Id"])
