"""The native routes, from submission to the end."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

import pytest

from relais_testing.builders import MODEL
from relais_testing.sse_client import ids_of, read_events, text_of
from relais_testing.stack import Front, Stack, answer_to, answer_to_prompt, chat_request
from relais_testing.waiting import wait_until
from relais_testing.worker import Worker


async def test_submission_answers_202_with_what_a_client_needs(front: Front) -> None:
    async with front.post("/v1/requests", chat_request()) as response:
        assert response.status == 202
        body = await response.json()
        assert response.headers["Location"] == f"/v1/channels/{body['channel_id']}"
        assert response.headers["X-Request-Id"] == body["channel_id"]
    assert body.keys() == {
        "channel_id",
        "status",
        "queue_position",
        "estimated_wait_s",
        "events_url",
    }
    assert body["status"] == "queued"
    assert body["queue_position"] == 1
    assert body["estimated_wait_s"] is None
    assert body["events_url"].startswith(f"/v1/channels/{body['channel_id']}/events?token=")


@pytest.mark.usefixtures("worker")
async def test_events_come_numbered_in_order_with_the_whole_answer(front: Front) -> None:
    channel_id = await front.submit(chat_request("où est la gare ?", params={"max_tokens": 50}))
    events = await read_events(front.session, f"/v1/channels/{channel_id}/events")
    assert ids_of(events) == list(range(1, 54))
    names = [event.name for event in events]
    assert names == ["queued", "started", *["token"] * 50, "completed"]
    assert text_of(events) == answer_to("où est la gare ?", 50)
    assert events[0].json["queue_position"] == 1
    end = events[-1].json
    assert end["finish_reason"] == "length"
    assert end["usage"]["output_tokens"] == 50
    assert end["usage"]["input_tokens"] == events[1].json["input_tokens"]
    assert all(end["timings"][phase] >= 0 for phase in ("queue_s", "prefill_s", "decode_s"))


@pytest.mark.usefixtures("worker")
async def test_stream_headers_let_tokens_through_a_proxy_at_once(front: Front) -> None:
    channel_id = await front.submit(chat_request())
    async with front.get(f"/v1/channels/{channel_id}/events") as response:
        assert response.headers["Content-Type"] == "text/event-stream; charset=utf-8"
        assert response.headers["X-Accel-Buffering"] == "no"
        assert response.headers["Cache-Control"] == "no-store"
        assert response.headers["X-Request-Id"] == channel_id
        assert (await response.content.readline()).startswith(b"retry: ")


@pytest.mark.usefixtures("worker")
async def test_plain_prompt_and_token_ids_give_the_same_answer(front: Front) -> None:
    by_text = await front.submit({"model": MODEL, "prompt": "abc"})
    by_ids = await front.submit({"model": MODEL, "prompt": list(b"abc")})
    for channel_id in (by_text, by_ids):
        await wait_until(partial(front.is_terminal, channel_id))
        state = await front.state(channel_id)
        assert state["operation"] == "text_completion"
        assert state["result"]["text"] == answer_to_prompt("abc", 32)


async def test_state_tells_waiting_from_done(front: Front, stack: Stack) -> None:
    channel_id = await front.submit(chat_request("a"))
    second = await front.submit(chat_request("b"))
    waiting = await front.state(second)
    assert (waiting["status"], waiting["queue_position"]) == ("queued", 2)
    assert waiting["result"] is waiting["error"] is waiting["started_at_s"] is None
    await stack.worker()
    await wait_until(lambda: front.is_terminal(channel_id))
    done = await front.state(channel_id)
    assert (done["status"], done["queue_position"], done["model"]) == ("completed", 0, MODEL)
    assert done["result"]["text"] == answer_to("a")
    assert done["result"]["finish_reason"] == "stop"
    assert done["result"]["usage"]["output_tokens"] == 32
    assert done["last_event_id"] == 35
    assert done["accepted_at_s"] <= done["started_at_s"] <= done["finished_at_s"]


@pytest.mark.usefixtures("worker")
async def test_state_of_a_failed_request_has_its_error_and_no_result(front: Front) -> None:
    channel_id = await front.submit(chat_request("[engine-fault]"))
    await wait_until(lambda: front.is_terminal(channel_id))
    state = await front.state(channel_id)
    assert (state["status"], state["result"]) == ("failed", None)
    assert state["error"].keys() == {"message", "type", "param", "code"}
    assert state["error"]["code"] == "engine_error"


async def test_delete_ends_a_waiting_request_at_once(front: Front, stack: Stack) -> None:
    channel_id = await front.submit(chat_request())
    async with front.delete(f"/v1/channels/{channel_id}") as response:
        assert response.status == 200
        assert (await response.json())["status"] == "cancelled"
    assert await stack.idle()
    events = await read_events(front.session, f"/v1/channels/{channel_id}/events")
    assert [event.name for event in events] == ["queued", "cancelled"]
    assert events[-1].json == {"reason": "client"}


async def test_delete_stops_a_running_request_and_frees_its_place(
    front: Front, stack: Stack
) -> None:
    worker = await stack.worker(tokens_per_s=20)
    channel_id = await front.submit(chat_request(params={"max_tokens": 10_000}))
    await wait_until(lambda: channel_id in worker.engine.running)
    with worker.faults.cut_off():
        async with front.delete(f"/v1/channels/{channel_id}") as response:
            assert response.status == 202
            assert (await response.json())["status"] == "running"
    await wait_until(lambda: not worker.engine.running)
    await wait_until(lambda: front.is_terminal(channel_id))
    assert await front.status(channel_id) == "cancelled"
    assert await stack.idle()


@pytest.mark.usefixtures("worker")
async def test_delete_after_the_end_changes_nothing(front: Front) -> None:
    channel_id = await front.submit(chat_request("a"))
    await wait_until(lambda: front.is_terminal(channel_id))
    async with front.delete(f"/v1/channels/{channel_id}") as response:
        assert response.status == 200
        assert (await response.json())["status"] == "completed"
    assert (await front.state(channel_id))["result"]["text"] == answer_to("a")


async def test_same_idempotency_key_gives_the_same_channel_and_one_job(
    front: Front, stack: Stack
) -> None:
    other = await stack.front()
    key = {"Idempotency-Key": "once"}
    answers = await asyncio.gather(
        *(one.submit(chat_request(), **key) for one in (front, other) * 10)
    )
    assert len(set(answers)) == 1
    assert (await stack.store.intake.depth(MODEL)).waiting == 1


async def test_idempotency_key_with_another_body_is_a_conflict(front: Front) -> None:
    key = {"Idempotency-Key": "once"}
    await front.submit(chat_request("a"), **key)
    async with front.post("/v1/requests", chat_request("b"), headers=key) as response:
        assert response.status == 409
        assert (await response.json())["error"]["code"] == "idempotency_key_reused"


async def test_idempotency_keys_of_two_clients_do_not_meet(front: Front) -> None:
    def headers(token: str) -> dict[str, Any]:
        return {"Idempotency-Key": "once", "Authorization": f"Bearer {token}"}

    first = await front.submit(chat_request("a"), **headers("one"))
    second = await front.submit(chat_request("b"), **headers("two"))
    assert first != second


async def test_channel_of_another_key_is_not_found(front: Front, stack: Stack) -> None:
    mine, theirs = {"Authorization": "Bearer mine"}, {"Authorization": "Bearer theirs"}
    channel_id = await front.submit(chat_request(), **mine)
    path = f"/v1/channels/{channel_id}"
    for request in (
        front.get(path, headers=theirs),
        front.delete(path, headers=theirs),
        front.get(f"{path}/events", headers=theirs),
        front.get(path),
    ):
        async with request as response:
            assert response.status == 404
            error = (await response.json())["error"]
            assert (error["code"], error["param"]) == ("channel_not_found", "channel_id")
    assert (await stack.store.intake.depth(MODEL)).waiting == 1  # the DELETE did nothing
    assert (await front.state(channel_id, **mine))["status"] == "queued"


async def test_events_url_opens_its_own_events_without_a_key_and_nothing_else(
    stack: Stack, worker: Worker, tmp_path: Any
) -> None:
    keys = tmp_path / "keys.json"
    keys.write_text('{"one": "key-one", "two": "key-two"}')
    front = await stack.front(ENV="prod", API_KEYS=str(keys))
    other = await stack.front(ENV="prod", API_KEYS=str(keys))
    one = {"Authorization": "Bearer key-one"}
    async with front.post("/v1/requests", chat_request("a"), headers=one) as response:
        accepted = await response.json()
    second = await front.submit(chat_request("b"), **one)
    channel_id, events_url = accepted["channel_id"], accepted["events_url"]
    token = events_url.partition("?")[2]
    # Any orchestrator of this Redis knows the signature.
    events = await read_events(other.session, events_url)
    assert text_of(events) == answer_to("a")
    for path in (
        f"/v1/channels/{second}/events?{token}",
        f"/v1/channels/{channel_id}?{token}",
        f"/v1/channels/{channel_id}/events?{token}x",
        f"/v1/channels/{channel_id}/events",
    ):
        async with front.get(path) as response:
            assert response.status == 401, path
            assert response.headers["WWW-Authenticate"] == "Bearer"
    async with front.delete(f"/v1/channels/{channel_id}?{token}") as response:
        assert response.status == 401


async def test_no_key_and_unknown_keys_are_401_on_every_route_outside_dev(
    stack: Stack, tmp_path: Any
) -> None:
    keys = tmp_path / "keys.json"
    keys.write_text('{"one": "key-one"}')
    front = await stack.front(ENV="staging", API_KEYS=str(keys))
    for headers in ({}, {"Authorization": "Bearer nope"}, {"Authorization": "key-one"}):
        for request in (
            front.post("/v1/requests", chat_request(), headers=headers),
            front.post("/v1/chat/completions", chat_request(), headers=headers),
            front.post("/v1/completions", {"model": MODEL, "prompt": "a"}, headers=headers),
            front.get("/v1/models", headers=headers),
            front.get(f"/v1/models/{MODEL}", headers=headers),
            front.get("/v1/channels/x", headers=headers),
            front.get("/v1/channels/x/events", headers=headers),
            front.delete("/v1/channels/x", headers=headers),
        ):
            async with request as response:
                assert response.status == 401
                assert (await response.json())["error"]["code"] == "invalid_api_key"
    assert await stack.idle()
    for path in ("/healthz", "/readyz"):
        async with front.get(path) as response:
            assert response.status == 200
