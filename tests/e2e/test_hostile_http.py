"""Hostile bytes against a real orchestrator: typed errors or a clean close, nothing left behind, others served.

`FUZZ_HTTP_S=3600` fuzzes for an hour in place of some seconds; `FUZZ_HTTP_SEED` begins elsewhere. What it finds goes
into `raw_http/` as a file.
"""

from __future__ import annotations

import asyncio
import io
import json
import os
import random
import socket
import time
from contextlib import AsyncExitStack
from pathlib import Path

import aiohttp
import psutil
import pytest

from relais_testing.http_fuzz import answer_to, complaint, damaged
from relais_testing.process_stack import MODEL, Starter
from relais_testing.processes import ServiceProcess
from relais_testing.scrape import scrape
from relais_testing.waiting import LIVENESS_S, wait_until

CORPUS = [path.read_bytes() for path in sorted((Path(__file__).parent / "raw_http").glob("*.http"))]
FUZZ_S = float(os.environ.get("FUZZ_HTTP_S", "5"))
SEED = int(os.environ.get("FUZZ_HTTP_SEED", "1"))
AT_ONCE = 16
KEPT_BYTES = 30 << 20
"""What may stay after an attack."""

IMPATIENT = {"IDLE_TIMEOUT_S": "0.5", "BODY_TIMEOUT_S": "0.5", "WRITE_TIMEOUT_S": "1"}


def memory(front: ServiceProcess) -> int:
    resident: int = psutil.Process(front.pid).memory_info().rss
    return resident


async def assert_unharmed(front: ServiceProcess, before: int) -> None:
    """It answers, holds no connection and no request, logged no fault, and its memory is back."""

    async def is_idle() -> bool:
        async with aiohttp.ClientSession() as session:
            now = await scrape(session, front.url)
        return bool(now.of("relais_http_requests_in_flight") <= 1)

    def is_small() -> bool:
        return memory(front) < before + KEPT_BYTES

    def is_alone() -> bool:
        found = psutil.Process(front.pid).net_connections("tcp")
        return not [one for one in found if one.laddr.port == front.port and one.raddr]

    await wait_until(is_idle, every_s=0.2)
    await wait_until(is_small, every_s=0.2)
    await wait_until(is_alone, every_s=0.2)
    log = front.log_path.read_text()
    assert "Traceback" not in log, log[-4000:]
    assert '"level":"error"' not in log, log[-4000:]


async def test_damaged_requests_get_typed_errors_or_a_clean_close(start: Starter) -> None:
    front = start("orchestrator", **IMPATIENT)
    for request in CORPUS:
        answer = await answer_to(front.port, request, len(request))
        assert complaint(request, answer) is None, (request, answer)
    before = memory(front)
    seeds = iter(range(SEED, SEED + 1_000_000_000))
    end_s = time.monotonic() + FUZZ_S

    async def fuzz() -> None:
        while time.monotonic() < end_s:
            chance = random.Random(next(seeds))
            request = damaged(CORPUS, chance)
            answer = await answer_to(front.port, request, chance.randint(0, len(request)))
            assert complaint(request, answer) is None, (request, answer)

    async with asyncio.TaskGroup() as group:
        for _ in range(AT_ONCE):
            group.create_task(fuzz())
    await assert_unharmed(front, before)


async def test_memory_comes_back_after_a_burst_of_large_bodies_and_unread_answers(
    start: Starter,
) -> None:
    front = start("orchestrator", **IMPATIENT | {"BODY_TIMEOUT_S": "10", "IDLE_TIMEOUT_S": "10"})
    large = json.dumps({"model": MODEL, "prompt": "x" * 3_900_000}).encode()
    numbers = json.dumps({"model": MODEL, "prompt": list(range(400_000))}).encode()

    async def post(session: aiohttp.ClientSession, body: bytes) -> None:
        headers = {"Content-Type": "application/json"}
        end_s = time.monotonic() + LIVENESS_S
        while time.monotonic() < end_s:
            sent = session.post(f"{front.url}/v1/requests", data=io.BytesIO(body), headers=headers)
            async with sent as response:
                if response.status == 202:
                    return
                # The uploads that never end, which are the same client's, may have taken its bytes.
                assert "too_many_bytes" in await response.text()
                await asyncio.sleep(float(response.headers["Retry-After"]))
        pytest.fail(f"refused for {LIVENESS_S} s")

    async with AsyncExitStack() as stack:
        session = await stack.enter_async_context(aiohttp.ClientSession())
        await post(session, json.dumps({"model": MODEL, "prompt": "warm"}).encode())
        before = memory(front)
        for _ in range(20):
            client = stack.enter_context(socket.create_connection(("127.0.0.1", front.port)))
            client.sendall(b"GET /docs/swagger-ui-bundle.js HTTP/1.1\r\nHost: x\r\n\r\n" * 30)
        await asyncio.gather(
            *(post(session, body) for body in (large, numbers) * 4),
            *(answer_to(front.port, _half(large), len(large)) for _ in range(8)),
        )
        # The clients that read nothing are still there: the server has cut them.
        await assert_unharmed(front, before)


def _half(body: bytes) -> bytes:
    head = f"POST /v1/requests HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body[: len(body) // 2]
