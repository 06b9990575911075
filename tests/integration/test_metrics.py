"""What an orchestrator's `/metrics` says of traffic that was really there."""

from __future__ import annotations

import time
from collections.abc import Callable

import aiohttp
import pytest

from relais_orchestrator.api.table import ROUTES, SUBMITTING
from relais_orchestrator.metrics import queues
from relais_testing.builders import MODEL
from relais_testing.scrape import Scraped, scrape
from relais_testing.sse_client import SseEvent, sse_events
from relais_testing.stack import Front, Stack, chat_request
from relais_testing.valkey import ValkeyServer
from relais_testing.waiting import wait_until
from relais_testing.worker import Worker


@pytest.fixture(autouse=True)
def look_at_every_scrape(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queues, "FRESH_S", 0.0)


async def seen_at(front: Front) -> Scraped:
    return await scrape(front.session, front.url)


async def whole_stream(
    front: Front, path: str, headers: dict[str, str] | None = None
) -> list[SseEvent]:
    """All events, those too that tell a place in the queue and are not of the log."""
    async with front.get(path, headers=headers or {}) as response:
        return [event async for event in sse_events(response)]


async def test_requests_are_counted_by_route_and_status_and_streams_by_what_they_sent(
    front: Front, worker: Worker
) -> None:
    body = chat_request("hello", params={"max_tokens": 20})
    channel_id = await front.submit(body)
    path = f"/v1/channels/{channel_id}/events"
    events = await whole_stream(front, path)
    resumed = await whole_stream(front, path, {"Last-Event-ID": "3"})
    async with front.post("/v1/chat/completions", chat_request(stream=True)) as response:
        await response.read()
    async with front.post("/v1/chat/completions", chat_request()) as response:
        assert response.status == 200
    seen = await seen_at(front)
    assert seen.of("relais_requests_accepted_total", model_name=MODEL) == 3
    assert seen.of("relais_requests_accepted_total", operation="chat", priority="normal") == 3
    counted = "relais_http_requests_total"
    assert seen.of(counted, method="POST", route="/v1/requests", status="202") == 1
    assert seen.of(counted, route="/v1/chat/completions", status="200") == 2
    assert seen.of(counted, route="/v1/channels/{channel_id}/events", status="200") == 2
    durations = "relais_http_request_duration_seconds_count"
    assert seen.of(durations, route="/v1/chat/completions") == 1
    assert seen.of(durations, route="/v1/channels/{channel_id}/events") == 0
    assert seen.of("relais_sse_streams_total", api="native") == 2
    assert seen.of("relais_sse_streams_total", api="openai") == 1
    assert seen.of("relais_sse_resumptions_total") == 1
    frames = seen.of("relais_sse_frames_sent_total", api="native")
    assert frames == len(events) + len(resumed)
    assert seen.of("relais_sse_sent_bytes_total", api="openai") > 0
    # This very look is under way.
    assert seen.of("relais_http_requests_in_flight") == 1
    assert seen.of("relais_http_request_turn_wait_seconds_count") == seen.of(counted) + 1


async def test_delivery_is_timed_for_what_came_live(stack: Stack, front: Front) -> None:
    await stack.worker(tokens_per_s=50)
    body = chat_request(stream=True, max_tokens=20)
    began_s = time.monotonic()
    async with front.post("/v1/chat/completions", body) as response:
        await response.read()
    seen = await seen_at(front)
    passed_s = time.monotonic() - began_s
    assert 1 <= (count := seen.of("relais_delivery_seconds_count")) <= 22
    assert 0 < seen.of("relais_delivery_seconds_sum") < count * passed_s


async def test_rejections_are_counted_by_cause_and_nothing_else_is_one(stack: Stack) -> None:
    front = await stack.front(MAX_WAITING="1", MAX_INFLIGHT_PER_KEY="2")
    await front.submit(chat_request())
    refused = [
        (chat_request(), "queue_full"),
        (chat_request() | {"model": "nobody's"}, "model_not_found"),
        (chat_request() | {"messages": 3}, "invalid_type"),
        (b"{", "invalid_json"),
    ]
    for body, code in refused:
        async with front.post("/v1/chat/completions", body) as response:
            assert (await response.json())["error"]["code"] == code
    async with front.get("/v1/models/nobody's") as response:
        assert response.status == 404
    seen = await seen_at(front)
    for _, code in refused:
        assert seen.of("relais_admission_rejections_total", error_type=code) == 1
    assert seen.of("relais_admission_rejections_total") == len(refused)
    assert seen.of("relais_requests_accepted_total") == 1


async def test_a_request_that_was_accepted_and_failed_is_no_rejection(
    front: Front, worker: Worker
) -> None:
    async with front.post("/v1/chat/completions", chat_request("[engine-fault]")) as response:
        assert response.status == 500
    seen = await seen_at(front)
    assert seen.of("relais_admission_rejections_total") == 0
    assert seen.of("relais_requests_accepted_total") == 1
    assert seen.of("relais_http_requests_total", status="500") == 1


async def test_a_repetition_is_not_accepted_twice(front: Front) -> None:
    for _ in range(2):
        await front.submit(chat_request(), **{"Idempotency-Key": "once"})
    seen = await seen_at(front)
    assert seen.of("relais_requests_accepted_total") == 1
    assert seen.of("relais_requests_repeated_total", model_name=MODEL) == 1


async def test_open_streams_are_counted_until_their_client_leaves(front: Front) -> None:
    channel_id = await front.submit(chat_request())
    path = f"/v1/channels/{channel_id}/events"
    async with aiohttp.ClientSession(front.url) as session, session.get(path) as response:
        assert (await anext(sse_events(response))).name == "queued"
        assert (await seen_at(front)).of("relais_sse_clients", api="native") == 1

        async def kept_alive() -> bool:
            return (await seen_at(front)).of("relais_sse_keepalives_total") > 0

        await wait_until(kept_alive)

    async def left() -> bool:
        return (await seen_at(front)).of("relais_sse_clients") == 0

    await wait_until(left)


async def test_queue_and_workers_are_told_as_redis_has_them(stack: Stack, front: Front) -> None:
    for priority in ("high", "low", "low"):
        await front.submit(chat_request(priority=priority))
    seen = await seen_at(front)
    assert seen.of("relais_num_requests_waiting", priority="high") == 1
    assert seen.of("relais_num_requests_waiting", priority="low") == 2
    assert seen.of("relais_oldest_waiting_seconds", model_name=MODEL) > 0
    assert seen.of("relais_workers", model_name=MODEL) == 0
    assert "relais_workers" in seen.families
    assert seen.of("relais_redis_up") == 1
    await stack.worker(max_num_seqs=5)

    async def done() -> bool:
        seen = await seen_at(front)
        idle = seen.of("relais_num_requests_waiting") + seen.of("relais_num_requests_leased") == 0
        if not idle or seen.of("relais_workers", state="ready") != 1:
            return False
        # Of this very look: a worker that cannot say for a while that it lives is no longer counted.
        assert seen.of("relais_workers_capacity", model_name=MODEL) == 5
        assert seen.of("relais_oldest_waiting_seconds") == 0
        assert seen.of("relais_estimated_wait_seconds") > 0
        return True

    await wait_until(done)


async def test_a_scraper_is_answered_without_the_queues_while_redis_is_away(
    make_redis_server: Callable[..., ValkeyServer],
) -> None:
    server = make_redis_server()
    stack = await Stack.open(server.url)
    front = await stack.front()
    await front.submit(chat_request())
    assert (await seen_at(front)).of("relais_num_requests_waiting") == 1
    server.kill()
    seen = await seen_at(front)
    assert seen.of("relais_redis_up") == 0
    assert seen.families["relais_num_requests_waiting"].samples == []
    assert seen.of("relais_redis_errors_total") > 0
    assert seen.of("relais_requests_accepted_total") == 1
    await stack.close()


async def test_what_clients_make_up_never_makes_a_series(front: Front) -> None:
    await seen_at(front)
    before = len((await seen_at(front)).samples)
    for number in range(50):
        async with front.post(f"/v1/made-up-{number}", {}) as response:
            assert response.status == 404
        async with front.session.request("PURGE", "/v1/models") as response:
            assert response.status == 405
        body = chat_request() | {"model": f"made-up-{number}"}
        async with front.post("/v1/requests", body) as response:
            assert response.status == 404
        async with front.get(f"/v1/models/made-up-{number}") as response:
            assert response.status == 404
    seen = await seen_at(front)
    values = {value for sample in seen.samples for value in sample.labels.values()}
    assert not [value for value in values if "made-up" in value or value == "PURGE"]
    routes = {sample.labels["route"] for sample in seen.samples if "route" in sample.labels}
    assert routes <= {"other", "/metrics", "/v1/requests", "/v1/models", "/v1/models/{model}"}
    methods = {sample.labels["method"] for sample in seen.samples if "method" in sample.labels}
    assert methods <= {"GET", "POST", "other"}
    assert seen.of("relais_http_requests_total", route="other", status="404") == 50
    # Four kinds of refused requests: for each a count and at most one histogram of durations.
    assert len(seen.samples) - before < 4 * 20


async def test_openmetrics_is_given_to_who_asks_for_it(front: Front) -> None:
    accept = {"Accept": "application/openmetrics-text; version=1.0.0"}
    async with front.get("/metrics", headers=accept) as response:
        assert response.content_type == "application/openmetrics-text"
        assert (await response.text()).endswith("# EOF\n")
    async with front.get("/metrics") as response:
        assert response.content_type == "text/plain"


def test_every_route_that_submits_is_known_as_one() -> None:
    posts = {route.path for route in ROUTES if route.method == "POST"}
    others = ("/v1/admin/", "/v1/files", "/v1/batches", "/v1/responses/{response_id}/cancel")
    assert {path for path in posts if not path.startswith(others)} == SUBMITTING
