"""A worker that has its models behind servers, as a process: what is seen of it when one of both dies."""

from __future__ import annotations

import asyncio
from typing import Any

import aiohttp
import pytest

from relais_testing.fake_openai import FakeServer, answer, answer_ids, open_fake_server
from relais_testing.native_client import events_url, state_of
from relais_testing.ports import let_leases_pass
from relais_testing.process_stack import MODEL, Starter
from relais_testing.sse_client import SseEvent, ids_of, read_events, text_of
from relais_testing.valkey import ValkeyServer
from relais_testing.waiting import wait_until


def remote(*servers: FakeServer, **settings: str) -> dict[str, str]:
    """A remote worker's settings."""
    table = [(server.model, server.url) for server in servers]
    return {
        "ENGINE": "remote",
        "LLM_TABLE": repr(table),
        "REMOTE_PROBE_EVERY_S": "0.2",
        **settings,
    }


async def submit(
    session: aiohttp.ClientSession, base_url: str, model: str = MODEL, **fields: Any
) -> str:
    body = {"model": model, "messages": [{"role": "user", "content": "hello"}], **fields}
    async with session.post(f"{base_url}/v1/requests", json=body) as response:
        assert response.status == 202, await response.text()
        channel_id: str = (await response.json())["channel_id"]
        return channel_id


async def read_all(
    session: aiohttp.ClientSession, base_url: str, channel_id: str
) -> list[SseEvent]:
    events = await read_events(session, events_url(base_url, channel_id))
    assert ids_of(events) == list(range(1, len(events) + 1))
    return events


async def test_killed_worker_s_stream_goes_on_from_its_token_ids(
    start: Starter, session: aiohttp.ClientSession, redis: ValkeyServer
) -> None:
    async with open_fake_server(model=MODEL, vllm=True, hold_after=5) as server:
        front = start("orchestrator")
        patient = remote(server, LEASE_S="300")
        doomed = await asyncio.to_thread(start, "llm_worker", **patient)
        channel_id = await submit(session, front.url)
        # `queued`, `started` and five tokens.
        await read_events(session, events_url(front.url, channel_id), stop_after=7)
        doomed.kill()
        server.hold_after = None
        await let_leases_pass(redis.url, MODEL)
        await asyncio.to_thread(start, "llm_worker", **patient)
        events = await read_all(session, front.url, channel_id)
        assert (events[-1].name, text_of(events)) == ("completed", answer())
        assert events[-1].json["usage"]["output_tokens"] == 12
        assert [body["prompt"][3:] for _, body in server.asked[1:]] == [answer_ids(5)]


@pytest.mark.parametrize("on_loss", ["fail", "restart"])
async def test_text_of_a_server_that_tells_no_ids_ends_or_begins_again(
    start: Starter, session: aiohttp.ClientSession, on_loss: str
) -> None:
    some_read = asyncio.Event()
    async with open_fake_server(model=MODEL, cut_after=5, cuts=1, cut_when=some_read) as server:
        front = start("orchestrator")
        await asyncio.to_thread(start, "llm_worker", **remote(server))
        channel_id = await submit(session, front.url, on_worker_loss=on_loss)
        # `queued`, `started` and a token: what was cut before that would be asked for again.
        await read_events(session, events_url(front.url, channel_id), stop_after=3)
        some_read.set()
        events = await read_all(session, front.url, channel_id)
        names = [event.name for event in events]
        assert events[1].json == {"input_tokens": None}
        if on_loss == "fail":
            # Tokens that come while others are on their way to Redis may share an event.
            assert [name for name in names if name != "token"] == ["queued", "started", "failed"]
            # What was on its way to a busy worker may go with the connection.
            assert names[-1] == "failed"
            assert text_of(events)
            assert answer(5).startswith(text_of(events))
            assert events[-1].json["error"]["code"] == "not_resumable"
        else:
            begin = names.index("restarted") + 1
            assert (names[-1], text_of(events[begin:])) == ("completed", answer())
            assert events[-1].json["usage"]["input_tokens"] == 3


async def test_worker_without_a_server_takes_nothing_and_says_so(
    start: Starter, session: aiohttp.ClientSession
) -> None:
    async with open_fake_server(model=MODEL) as server:
        front = start("orchestrator")
        worker = await asyncio.to_thread(start, "llm_worker", **remote(server))
        await server.stop()

        async def ready() -> tuple[int, str]:
            async with session.get(f"{worker.url}/readyz") as response:
                return response.status, await response.text()

        async def is_unready() -> bool:
            status, reason = await ready()
            return status == 503 and f"no server of {MODEL} can be used" in reason

        await wait_until(is_unready)
        channel_id = await submit(session, front.url)

        async def beats_unready() -> bool:
            async with session.get(f"{front.url}/v1/admin/workers") as response:
                states = (await response.json())["workers"]
            return [(one["not_ready"] is None, one["capacity"]) for one in states] == [(False, 0)]

        await wait_until(beats_unready)
        assert (await state_of(session, front.url, channel_id))["status"] == "queued"
        await server.start()
        events = await read_all(session, front.url, channel_id)
        assert text_of(events) == answer()
        assert (await ready())[0] == 200


async def test_one_worker_serves_every_model_of_its_table(
    start: Starter, session: aiohttp.ClientSession
) -> None:
    async with (
        open_fake_server(model="org/one") as one,
        open_fake_server(model="two", health=503) as two,
    ):
        settings = remote(one, two)
        front = start("orchestrator", MODELS="", LLM_TABLE=settings["LLM_TABLE"])
        worker = await asyncio.to_thread(start, "llm_worker", WORKER_ID="w", **settings)
        channels = [await submit(session, front.url, model) for model in ("two", "org/one")]
        assert text_of(await read_all(session, front.url, channels[1])) == answer()

        async def both_are_shown() -> bool:
            async with session.get(f"{front.url}/v1/admin/workers") as response:
                states = (await response.json())["workers"]
            return [(state["worker_id"], state["model"]) for state in states] == [
                ("w/org/one", "org/one"),
                ("w/two", "two"),
            ]

        await wait_until(both_are_shown)
        two.health = 200
        assert text_of(await read_all(session, front.url, channels[0])) == answer()
        assert await asyncio.to_thread(worker.terminate) == 0


async def test_drained_worker_s_stream_goes_on_at_another(
    start: Starter, session: aiohttp.ClientSession
) -> None:
    async with open_fake_server(model=MODEL, vllm=True, hold_after=5) as server:
        front = start("orchestrator")
        first = await asyncio.to_thread(
            start, "llm_worker", **remote(server, DRAIN_S="0", LEASE_S="300")
        )
        channel_id = await submit(session, front.url)
        await read_events(session, events_url(front.url, channel_id), stop_after=7)
        assert await asyncio.to_thread(first.terminate) == 0
        await wait_until(lambda: server.dropped == 1)
        server.hold_after = None
        await asyncio.to_thread(start, "llm_worker", **remote(server))
        assert text_of(await read_all(session, front.url, channel_id)) == answer()
