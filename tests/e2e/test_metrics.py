"""Every service as a process, scraped after real traffic: what it says adds up with what was sent."""

from __future__ import annotations

import asyncio
from functools import partial

import aiohttp
import pytest

from relais_testing.native_client import events_url, submit
from relais_testing.process_stack import DETERMINISTIC, MODEL, VLLM_ON_CPU, Starter
from relais_testing.processes import ServiceProcess
from relais_testing.scrape import scrape
from relais_testing.sse_client import read_events
from relais_testing.waiting import wait_until

REQUESTS, TOKENS = 12, 30


async def test_what_was_sent_is_what_the_services_counted(start: Starter) -> None:
    front = start("orchestrator")
    worker = start("llm_worker", **DETERMINISTIC, DETERMINISTIC_TOKENS_PER_S="200")
    async with aiohttp.ClientSession() as session:

        async def ask(number: int) -> int:
            channel_id = await submit(session, front.url, f"request {number:02}", TOKENS)
            return len(await read_events(session, events_url(front.url, channel_id)))

        events = sum(await asyncio.gather(*map(ask, range(REQUESTS))))
        async with session.post(f"{front.url}/v1/requests", json={"model": MODEL}) as response:
            assert response.status == 400

        async def quiet() -> bool:
            seen = await scrape(session, front.url)
            return seen.of("relais_sse_clients") == 0 and seen.of("relais_workers") == 1

        async def lag_measured() -> bool:
            both = [await scrape(session, one.url) for one in (front, worker)]
            return all(one.of("relais_event_loop_lag_seconds_count") for one in both)

        await wait_until(quiet)
        await wait_until(partial(all_counted, session, worker, REQUESTS))
        await wait_until(lag_measured)
        at_front, at_worker = await scrape(session, front.url), await scrape(session, worker.url)

    assert at_front.of("relais_requests_accepted_total", model_name=MODEL) == REQUESTS
    assert at_front.of("relais_admission_rejections_total") == 1
    # A place in the queue is a frame too.
    assert at_front.of("relais_sse_frames_sent_total") >= events
    assert at_front.of("relais_num_requests_waiting") == 0
    assert at_front.of("relais_build_info", service="orchestrator") == 1

    assert at_worker.of("relais_takes_total", kind="first") == REQUESTS
    assert at_worker.of("relais_requests_ended_total", status="completed") == REQUESTS
    assert at_worker.of("relais_request_success_total", finished_reason="length") == REQUESTS
    assert at_worker.of("relais_generation_tokens_total", model_name=MODEL) == REQUESTS * TOKENS
    assert at_worker.of("relais_prompt_tokens_total") == REQUESTS * len("request 00")
    for name in ("time_to_first_token", "e2e_request_latency", "request_queue_time"):
        assert at_worker.of(f"relais_{name}_seconds_count") == REQUESTS, name
    # Tokens that came together are one addition, and what was not sent at the end comes with it.
    additions = at_worker.of("relais_inter_token_latency_seconds_count") + REQUESTS
    assert additions >= 2 * REQUESTS
    assert at_worker.of("relais_append_events_sum") >= REQUESTS
    assert at_worker.of("relais_num_requests_running") == 0
    assert at_worker.of("relais_num_requests_capacity") == 64
    assert at_worker.of("relais_build_info", service="llm-worker") == 1
    for seen in (at_front, at_worker):
        assert seen.of("process_resident_memory_bytes") > 0
        assert seen.of("relais_redis_step_duration_seconds_count") > 0
        assert seen.of("relais_redis_errors_total") == 0


async def all_counted(
    session: aiohttp.ClientSession, worker: ServiceProcess, requests: int
) -> bool:
    """Return whether the worker has counted the ends of so many requests, which it does once Redis has them."""
    seen = await scrape(session, worker.url)
    return seen.of("relais_requests_ended_total") == requests


@pytest.mark.vllm
@pytest.mark.slow
async def test_a_vllm_worker_shows_vllm_s_own_metrics_beside_its_own(start: Starter) -> None:
    front, worker = start("orchestrator"), start("llm_worker", **VLLM_ON_CPU)
    async with aiohttp.ClientSession() as session:
        channel_id = await submit(session, front.url, "Bonjour", 8, params={"ignore_eos": True})
        events = await read_events(session, events_url(front.url, channel_id))
        assert events[-1].name == "completed"
        await wait_until(partial(all_counted, session, worker, 1))
        seen = await scrape(session, worker.url)
    for own, vllm in (
        ("relais_generation_tokens_total", "vllm:generation_tokens_total"),
        ("relais_prompt_tokens_total", "vllm:prompt_tokens_total"),
        ("relais_time_to_first_token_seconds_count", "vllm:time_to_first_token_seconds_count"),
        ("relais_request_success_total", "vllm:request_success_total"),
    ):
        assert seen.of(own, model_name=MODEL) == seen.of(vllm, model_name=MODEL) > 0, own
    for name in (
        *("time_to_first_token_seconds", "inter_token_latency_seconds"),
        *("request_time_per_output_token_seconds", "e2e_request_latency_seconds"),
        *("request_queue_time_seconds", "request_prefill_time_seconds"),
        "request_decode_time_seconds",
    ):
        bounds = [
            {one.labels["le"] for one in seen.samples if one.name == f"{prefix}{name}_bucket"}
            for prefix in ("relais_", "vllm:")
        ]
        assert bounds[0] == bounds[1], name
