"""Limits of keys over HTTP: what passes two orchestrators, what the headers say, and what was used."""

from __future__ import annotations

import asyncio
import json
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from relais_testing.builders import MODEL
from relais_testing.keys import KeyFile, bearer
from relais_testing.stack import Front, Stack, chat_request
from relais_testing.waiting import wait_until

ONE, OPS = bearer("one"), bearer("ops")


@pytest.fixture
def key_file(tmp_path: Path) -> KeyFile:
    return KeyFile(tmp_path / "keys.json", one={}, ops={"admin": True})


async def error_of(request: Any, status: int) -> tuple[dict[str, Any], Any]:
    """The error object, and the headers that came with it."""
    async with request as response:
        text = await response.text()
        assert response.status == status, text
        return json.loads(text)["error"], response.headers


async def test_exactly_as_many_as_the_limit_says_pass_two_orchestrators_at_once(
    stack: Stack, key_file: KeyFile
) -> None:
    key_file.write(one={"requests_per_minute": 12}, two={"requests_per_minute": 12})
    fronts = [await stack.front(**key_file.settings) for _ in range(2)]
    statuses: dict[str, list[int]] = {"one": [], "two": []}

    async def ask(number: int) -> None:
        client = ("one", "two")[number // 2 % 2]
        path = "/v1/requests"
        async with fronts[number % 2].post(
            path, chat_request(str(number)), headers=bearer(client)
        ) as response:
            statuses[client].append(response.status)

    began_s = time.monotonic()
    await asyncio.gather(*(ask(number) for number in range(160)))
    trickled_back = int((time.monotonic() - began_s) * 12 / 60)
    for client in ("one", "two"):
        passed = statuses[client].count(202)
        assert 12 <= passed <= 12 + trickled_back
        assert statuses[client].count(429) == 80 - passed
    queued = (await stack.store.intake.depth(MODEL)).waiting
    assert queued == sum(one.count(202) for one in statuses.values())


async def test_concurrent_requests_are_bounded_over_two_orchestrators_and_free_at_the_end(
    stack: Stack, key_file: KeyFile
) -> None:
    key_file.write(one={"concurrent_requests": 3}, two={})
    fronts = [await stack.front(**key_file.settings) for _ in range(2)]

    async def ask(number: int) -> str:
        request = fronts[number % 2].post("/v1/requests", chat_request(), headers=ONE)
        async with request as response:
            body = await response.json()
            if response.status == 429:
                assert body["error"]["code"] == "too_many_in_flight"
                assert int(response.headers["Retry-After"]) >= 1
                return ""
            return str(body["channel_id"])

    channels = [one for one in await asyncio.gather(*map(ask, range(30))) if one]
    assert len(channels) == 3
    await fronts[0].submit(chat_request(), **bearer("two"))
    async with fronts[1].delete(f"/v1/channels/{channels[0]}", headers=ONE) as response:
        assert response.status == 200
    assert len([one for one in await asyncio.gather(*map(ask, range(30))) if one]) == 1


async def test_headers_tell_what_is_left_as_openai_s_do(stack: Stack, key_file: KeyFile) -> None:
    limits = {"requests_per_minute": 3, "tokens_per_minute": 1000}
    key_file.write(one=limits, two={"requests_per_minute": 9}, ops={})
    front = await stack.front(**key_file.settings)
    await stack.worker()
    body = chat_request("hello", max_tokens=10)
    for path, left in (("/v1/chat/completions", "2"), ("/v1/completions", "1")):
        if path == "/v1/completions":
            body = {"model": MODEL, "prompt": "hello", "max_tokens": 10, "stream": True}
        async with front.post(path, body, headers=ONE) as response:
            assert response.status == 200
            await response.read()
            assert response.headers["x-ratelimit-limit-requests"] == "3"
            assert response.headers["x-ratelimit-remaining-requests"] == left
            assert response.headers["x-ratelimit-reset-requests"].endswith("s")
            assert response.headers["x-ratelimit-limit-tokens"] == "1000"
            assert 900 <= int(response.headers["x-ratelimit-remaining-tokens"]) < 1000
    native = {"model": MODEL, "prompt": "hello", "params": {"max_tokens": 10}}
    await front.submit(native, **ONE)
    error, headers = await error_of(front.post("/v1/requests", native, headers=ONE), 429)
    assert (error["code"], error["type"]) == ("rate_limit_exceeded", "rate_limit_error")
    assert headers["x-ratelimit-remaining-requests"] == "0"
    assert 1 <= int(headers["Retry-After"]) <= 20
    error, headers = await error_of(
        front.post("/v1/requests", native | {"params": {"max_tokens": 1000}}, headers=ONE), 400
    )
    assert (error["code"], error["param"]) == ("tokens_over_limit", "max_tokens")
    for client, named in (("two", {"requests"}), ("ops", set())):
        async with front.post("/v1/requests", native, headers=bearer(client)) as response:
            assert response.status == 202
            told = {
                name
                for name in ("requests", "tokens")
                if f"x-ratelimit-limit-{name}" in response.headers
            }
            assert told == named


async def test_tokens_of_a_minute_are_reserved_and_given_back(
    stack: Stack, key_file: KeyFile
) -> None:
    key_file.write(one={"tokens_per_minute": 1000})
    front = await stack.front(**key_file.settings)
    # Without max_tokens as much is reserved as there may be: one at a time.
    began_s = time.monotonic()
    first = await front.submit(chat_request("hello"), **ONE)
    error, headers = await error_of(
        front.post("/v1/requests", chat_request("hello"), headers=ONE), 429
    )
    assert "1000 tokens" in error["message"]
    trickled_back = (time.monotonic() - began_s) * 1000 / 60
    assert 0 <= int(headers["x-ratelimit-remaining-tokens"]) <= trickled_back
    await stack.worker()
    await wait_until(lambda: ended(front, first))
    async with front.post(
        "/v1/requests", chat_request("hello", params={"max_tokens": 1}), headers=ONE
    ) as response:
        assert response.status == 202
        assert int(response.headers["x-ratelimit-remaining-tokens"]) > 800


async def ended(front: Front, channel_id: str) -> bool:
    return str((await front.state(channel_id, **ONE))["status"]) == "completed"


async def test_limit_is_changed_without_a_restart(stack: Stack, key_file: KeyFile) -> None:
    key_file.write(one={"requests_per_minute": 1})
    front = await stack.front(**key_file.settings)
    await front.submit(chat_request(), **ONE)
    await error_of(front.post("/v1/requests", chat_request(), headers=ONE), 429)
    key_file.write(one={})

    async def passes() -> bool:
        async with front.post("/v1/requests", chat_request(), headers=ONE) as response:
            return bool(response.status == 202)

    await wait_until(passes)


async def test_streams_of_a_key_are_bounded_and_free_when_they_end(
    stack: Stack, key_file: KeyFile
) -> None:
    front = await stack.front(**key_file.settings, MAX_STREAMS_PER_KEY="2")
    channel_id = await front.submit(chat_request(), **ONE)
    path = f"/v1/channels/{channel_id}/events"
    async with front.get(path, headers=ONE) as first:
        async with front.post("/v1/requests", chat_request(), headers=ONE) as response:
            events_url = (await response.json())["events_url"]
        async with front.get(events_url) as second:
            assert (first.status, second.status) == (200, 200)
            chat = "/v1/chat/completions"
            for refused in (
                front.get(path, headers=ONE),
                front.get(events_url),
                front.post(chat, chat_request(stream=True), headers=ONE),
                front.post(chat, chat_request(), headers=ONE),
            ):
                error, headers = await error_of(refused, 429)
                assert error["code"] == "too_many_streams"
                assert int(headers["Retry-After"]) >= 1
            assert (await stack.store.intake.depth(MODEL)).waiting == 2
            theirs = await front.submit(chat_request(), **OPS)
            async with front.get(f"/v1/channels/{theirs}/events", headers=OPS) as response:
                assert response.status == 200

    async def opens() -> bool:
        async with front.get(path, headers=ONE) as response:
            return bool(response.status == 200)

    await wait_until(opens)


async def usage(front: Front, query: str = "", **headers: str) -> dict[str, Any]:
    async with front.get(f"/v1/usage{query}", headers=headers) as response:
        assert response.status == 200, await response.text()
        body: dict[str, Any] = await response.json()
        return body


async def test_usage_tells_a_key_its_own_and_an_admin_s_all(
    stack: Stack, key_file: KeyFile
) -> None:
    front = await stack.front(**key_file.settings, MODELS=f"{MODEL},other")
    await stack.worker()
    assert (await usage(front, **ONE))["usage"] == []
    took = []
    for headers in (ONE, ONE, OPS):
        body = chat_request("hello", max_tokens=5)
        async with front.post("/v1/chat/completions", body, headers=headers) as response:
            took.append((await response.json())["usage"])
    waiting = await front.submit({**chat_request(), "model": "other"}, **ONE)
    async with front.delete(f"/v1/channels/{waiting}", headers=ONE) as response:
        assert response.status == 200
    mine = await usage(front, **ONE)
    assert mine["key_id"] == "one"
    assert mine["total"] == {
        "requests": 3,
        "completed": 2,
        "failed": 0,
        "cancelled": 1,
        "expired": 0,
        "input_tokens": took[0]["prompt_tokens"] + took[1]["prompt_tokens"],
        "output_tokens": 10,
        "cached_tokens": 0,
    }
    assert {one["model"] for one in mine["usage"]} == {MODEL, "other"}
    week = (datetime.now(UTC).date() - timedelta(days=7)).isoformat()
    assert (await usage(front, f"?since={week}", **ONE))["total"] == mine["total"]
    assert (await usage(front, f"?since={week}&until={week}", **ONE))["usage"] == []
    ever = await usage(front, "?since=0001-01-01&until=9999-12-31", **ONE)
    assert ever["total"] == mine["total"]
    everybody = await usage(front, "?key_id=*", **OPS)
    assert {one["key_id"] for one in everybody["usage"]} == {"one", "ops"}
    assert everybody["total"]["completed"] == 3
    assert (await usage(front, "?key_id=one", **OPS))["total"] == mine["total"]
    assert (await usage(front, **OPS))["total"]["completed"] == 1


async def test_usage_of_others_and_wrong_dates_are_refused(stack: Stack, key_file: KeyFile) -> None:
    front = await stack.front(**key_file.settings)
    for query in ("?key_id=ops", "?key_id=*", "?key_id=nobody"):
        error, _ = await error_of(front.get(f"/v1/usage{query}", headers=ONE), 403)
        assert error["code"] == "admin_required"
    for query, param in (
        ("since=yesterday", "since"),
        ("until=2026-13-01", "until"),
        ("since=2026-02-02&until=2026-02-01", "since"),
        ("since=0", "since"),
        ("until=20260201", "until"),
        ("model=x", "model"),
        ("key_id=", "key_id"),
    ):
        error, _ = await error_of(front.get(f"/v1/usage?{query}", headers=ONE), 400)
        assert error["param"] == param
    for headers in ({}, bearer("nobody")):
        await error_of(front.get("/v1/usage", headers=headers), 401)
