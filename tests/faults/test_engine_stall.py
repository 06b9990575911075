"""Engines that make no step while they have requests: whose fault it may be pays, and everybody else goes on."""

from __future__ import annotations

from typing import Any

import aiohttp
import pytest

from relais_testing.native_client import events_url, state_of, submit
from relais_testing.ports import let_deadline_pass
from relais_testing.process_stack import DETERMINISTIC, Starter
from relais_testing.processes import ServiceProcess
from relais_testing.sse_client import read_events
from relais_testing.streams import begin, check_whole
from relais_testing.valkey import ValkeyServer
from relais_testing.waiting import wait_until

PACED = {**DETERMINISTIC, "DETERMINISTIC_TOKENS_PER_S": "50"}
# No lease runs out within a test: what moves was handed over.
PATIENT = {"LEASE_S": "300"}
STRUCTURED: dict[str, Any] = {"params": {"structured_outputs": {"choice": ["x"]}}}
# A deaf engine is told from a slow one by the time that it makes no step.
pytestmark = [pytest.mark.realtime, pytest.mark.timeout(900)]


def start_worker(start: Starter, *, stall_s: str) -> ServiceProcess:
    """A worker whose engine a `[stall]` prompt makes deaf."""
    return start(
        "llm_worker",
        module="relais_testing.stalling_worker",
        ENGINE_STALL_S=stall_s,
        **PACED,
        **PATIENT,
    )


async def readiness(session: aiohttp.ClientSession, worker: ServiceProcess) -> str:
    """Why the worker is not ready; empty where it is, or cannot be asked any more."""
    try:
        async with session.get(f"{worker.url}/readyz") as response:
            return str((await response.json()).get("reason", ""))
    except aiohttp.ClientError:
        return ""


async def error_code(session: aiohttp.ClientSession, front: ServiceProcess, channel: str) -> str:
    await read_events(session, events_url(front.url, channel))
    state = await state_of(session, front.url, channel)
    return str((state["error"] or {}).get("code"))


async def test_the_one_that_may_be_why_fails_and_the_others_go_on_to_the_letter(
    start: Starter, session: aiohttp.ClientSession
) -> None:
    front = start("orchestrator", **PATIENT)
    worker = start_worker(start, stall_s="8")
    bystanders = [await begin(session, front, f"bystander {number}") for number in range(3)]
    culprit = await submit(session, front.url, "[stall]", 10, **STRUCTURED)

    async def says_so() -> bool:
        return await readiness(session, worker) == "the engine makes no step"

    while not await says_so():
        assert worker.exit_code is None
    assert worker.wait() == 1
    assert await error_code(session, front, culprit) == "engine_stalled"
    start("llm_worker", **PACED, **PATIENT)
    for number, reader in enumerate(bystanders):
        check_whole(await reader, f"bystander {number}")


async def test_of_several_each_is_charged_and_the_next_stall_says_which_it_is(
    start: Starter, session: aiohttp.ClientSession
) -> None:
    front = start("orchestrator", **PATIENT)
    worker = start_worker(start, stall_s="5")
    restart: dict[str, Any] = {**STRUCTURED, "on_worker_loss": "restart"}
    innocent = await submit(session, front.url, "innocent", 100, **restart)
    await read_events(session, events_url(front.url, innocent), stop_after=5)
    bystander = await begin(session, front, "bystander")
    culprit = await submit(session, front.url, "[stall]", 10, **restart)
    assert worker.wait() == 1
    for channel in (innocent, culprit):
        assert (await state_of(session, front.url, channel))["status"] == "queued"
    # Each runs alone now; one of them stops the engine again, and it can be no other's fault.
    worker = start_worker(start, stall_s="5")
    assert worker.wait() == 1
    assert await error_code(session, front, culprit) == "engine_stalled"
    start("llm_worker", **PACED, **PATIENT)
    events = await read_events(session, events_url(front.url, innocent))
    assert events[-1].name == "completed"
    check_whole(await bystander, "bystander")


@pytest.mark.parametrize("method", ["DELETE", "deadline"])
async def test_cancels_and_deadlines_do_not_wait_for_a_deaf_engine(
    start: Starter, session: aiohttp.ClientSession, redis: ValkeyServer, method: str
) -> None:
    front = start("orchestrator")
    worker = start_worker(start, stall_s="3600")
    channel_id = await submit(session, front.url, "stopped", 5000)
    url = events_url(front.url, channel_id)
    await read_events(session, url, stop_after=5)
    await submit(session, front.url, "[stall]", 10)
    if method == "DELETE":
        async with session.delete(url.removesuffix("/events")) as response:
            assert response.status in (200, 202)
    else:
        await let_deadline_pass(redis.url, channel_id)
    events = await read_events(session, url)
    assert events[-1].name == ("cancelled" if method == "DELETE" else "expired")
    assert worker.exit_code is None
    await wait_until(lambda: '"job_ended"' in worker.log_path.read_text())
