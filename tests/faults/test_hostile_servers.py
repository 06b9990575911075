"""Servers behind a remote worker that attack it: their own request ends, and nobody else's is any the worse."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import pytest
from redis import Redis

from relais_testing.hostile_openai import (
    ANSWER,
    ATTACKS,
    HostileServer,
    flood,
    head,
    open_hostile_server,
)
from relais_testing.key_leaks import keys_without_expiry
from relais_testing.ports import let_deadline_pass
from relais_testing.process_stack import Starter
from relais_testing.processes import ServiceProcess
from relais_testing.valkey import ValkeyServer
from relais_testing.waiting import wait_until

ATTACKED, OTHER = "attacked", "other"
WHOLE = {
    *("usage_1e30", "usage_9e18", "usage_negative", "usage_float_and_bool", "usage_of_wrong_shape"),
    *("flood_after_done", "flood_after_reason", "silent_after_done", "choices_out_of_order"),
    *("choices_of_wrong_shape", "logprobs_of_wrong_shape", "ids_out_of_range", "parts"),
}
"""Attacks around an answer that is whole."""
PASSED_ON = {
    "too_many_requests": "upstream_rate_limited",
    "far_retry": "upstream_rate_limited",
    "forbidden": "upstream_refused",
    "wrong_key": "upstream_misconfigured",
    "not_found": "upstream_misconfigured",
    "long_message": "upstream_refused",
    "endless_error": "upstream_refused",
    "deep_error": "upstream_refused",
    "compressed_error": "upstream_refused",
}
TOO_MUCH = {
    *("chunks_of_a_mebibyte", "tiny_chunks", "empty_chunks", "endless_comments"),
    "thoughts_without_end",
}
MEBIBYTE = 1 << 20
ATTACKERS, VICTIM = "attacker", "victim"


class Stack:
    """One worker with two models, one of them behind a hostile server, seen through an orchestrator."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        front: ServiceProcess,
        worker: ServiceProcess,
        server: HostileServer,
    ) -> None:
        self.session = session
        self.front = front
        self.worker = worker
        self.server = server

    async def submit(self, model: str, word: str, key: str) -> str:
        body = {
            "model": model,
            "messages": [{"role": "user", "content": word}],
            "params": {"max_tokens": 50, "logprobs": 1},
        }
        async with self.session.post(
            f"{self.front.url}/v1/requests", json=body, headers={"Authorization": f"Bearer {key}"}
        ) as response:
            assert response.status == 202, await response.text()
            return str((await response.json())["channel_id"])

    async def show(self, channel_id: str, key: str) -> dict[str, Any]:
        url = f"{self.front.url}/v1/channels/{channel_id}"
        async with self.session.get(url, headers={"Authorization": f"Bearer {key}"}) as response:
            assert response.status == 200, await response.text()
            state: dict[str, Any] = await response.json()
            return state

    async def end_of(self, channel_id: str, key: str) -> dict[str, Any]:
        async def ended() -> dict[str, Any] | None:
            state = await self.show(channel_id, key)
            return None if state["status"] in ("queued", "running") else state

        found: dict[str, Any] | None = await wait_until(ended, every_s=0.05)
        assert found is not None
        return found

    async def require_served(self, model: str) -> None:
        """A victim's request, while the worker is under attack."""
        state = await self.end_of(await self.submit(model, "hello", VICTIM), VICTIM)
        assert text_of(state) == ANSWER, state

    def memory(self) -> int:
        return int(psutil.Process(self.worker.pid).memory_info().rss)


def text_of(state: dict[str, Any]) -> str | None:
    """None where the request has not completed."""
    return None if state["result"] is None else str(state["result"]["text"])


def require_typed(name: str, state: dict[str, Any]) -> None:
    """The attacked request's end is the one that this attack must have."""
    if name in WHOLE:
        assert text_of(state) == ANSWER
        usage = state["result"]["usage"]
        assert all(count is None or 0 <= count < 100 for count in usage.values())
        return
    if name.startswith("trickled"):
        assert state["status"] == "expired"
        return
    assert state["status"] == "failed", state
    error = state["error"]
    assert (len(error["message"]) <= 1000, error["type"] != "") == (True, True)
    for word in ("Error", "/usr", "sk-secret", "secret"):
        assert word not in error["message"]
    if name in PASSED_ON:
        assert error["code"] == PASSED_ON[name]
    elif name in TOO_MUCH:
        assert error["code"] == "engine_error"
        assert "50 tokens" in error["message"]
    else:
        assert error["code"] in ("engine_error", "not_resumable")


@pytest.mark.realtime  # a silent server is told from a slow one by the time it takes
async def test_no_attack_of_a_server_reaches_others(
    start: Starter, session: aiohttp.ClientSession, redis: ValkeyServer, tmp_path: Path
) -> None:
    keys = tmp_path / "keys.json"
    keys.write_text(json.dumps({"attackers": ATTACKERS, "victims": VICTIM}))
    async with open_hostile_server(ATTACKED) as server, open_hostile_server(OTHER) as other:
        table = [(ATTACKED, server.url), (OTHER, other.url)]
        front = start(
            "orchestrator",
            MODELS="",
            LLM_TABLE=repr(table),
            API_KEYS=str(keys),
        )
        worker = await asyncio.to_thread(
            start,
            "llm_worker",
            ENGINE="remote",
            LLM_TABLE=repr(table),
            REMOTE_PROBE_EVERY_S="0.2",
            REMOTE_READ_TIMEOUT_S="1.5",
        )
        stack = Stack(session, front, worker, server)
        for model in (ATTACKED, OTHER):
            await stack.require_served(model)
        before = stack.memory()
        wrong = []
        for name in ATTACKS:
            server.asked.clear()
            attacked = await stack.submit(ATTACKED, name, ATTACKERS)
            await wait_until(lambda: bool(server.asked))
            await stack.require_served(ATTACKED)
            await stack.require_served(OTHER)
            if name.startswith("trickled"):
                await let_deadline_pass(redis.url, attacked)
            state = await stack.end_of(attacked, ATTACKERS)
            try:
                require_typed(name, state)
                assert server.asked.count(name) <= 6
            except AssertionError as error:
                wrong.append(f"{name}: {error}\n{state}")
            assert worker.alive, f"{name}\n{worker.log_tail()}"
        assert not wrong, "\n".join(wrong)

        async def is_free() -> bool:
            async with session.get(f"{worker.url}/readyz") as response:
                return response.status == 200

        await wait_until(is_free)
        # Allocators keep some of what they once had.
        assert stack.memory() - before < 60 * MEBIBYTE
        async with session.get(f"{worker.url}/metrics") as response:
            metrics = await response.text()
        for field in ("usage", "token_ids", "logprobs", "content", "choices"):
            assert f'relais_remote_values_ignored_total{{field="{field}",' in metrics
    with Redis.from_url(redis.url) as client:
        assert keys_without_expiry(client) == []


@pytest.mark.parametrize(
    "listing",
    [
        flood(head(kind="application/json"), b'{"data": [' + b" " * MEBIBYTE),
        flood(head("503 Service Unavailable", "text/html"), b"x" * MEBIBYTE),
        flood(head(kind="application/json"), b'{"data": ' + b"[" * 10_000, 10_000),
    ],
    ids=["endless", "endless_refusal", "deep"],
)
async def test_hostile_listing_makes_one_server_unusable_and_nothing_else(
    start: Starter, session: aiohttp.ClientSession, listing: Any
) -> None:
    async with open_hostile_server(ATTACKED) as server, open_hostile_server(OTHER) as other:
        server.listing = listing
        table = [(ATTACKED, server.url), (OTHER, other.url)]
        front = start("orchestrator", MODELS="", LLM_TABLE=repr(table))
        worker = await asyncio.to_thread(
            start, "llm_worker", ENGINE="remote", LLM_TABLE=repr(table), REMOTE_PROBE_EVERY_S="0.2"
        )
        stack = Stack(session, front, worker, server)
        before = stack.memory()
        for _ in range(5):
            await stack.require_served(OTHER)
        assert (worker.alive, stack.memory() - before < 30 * MEBIBYTE) == (True, True)
        waiting = await stack.submit(ATTACKED, "hello", VICTIM)
        assert (await stack.show(waiting, VICTIM))["status"] == "queued"
        server.listing = None
        assert text_of(await stack.end_of(waiting, VICTIM)) == ANSWER
