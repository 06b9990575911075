"""What a key opens, and what becomes of it when the file of keys changes under a running orchestrator."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from relais_common.jobs.errors import SettingsError
from relais_testing.builders import MODEL
from relais_testing.keys import KeyFile, bearer
from relais_testing.sse_client import SseEvent, sse_events
from relais_testing.stack import Front, Stack, chat_request, open_front
from relais_testing.waiting import wait_until

ONE = bearer("one")


@pytest.fixture
def key_file(tmp_path: Path) -> KeyFile:
    return KeyFile(tmp_path / "keys.json", one={}, two={})


async def error_of(request: Any, status: int) -> dict[str, Any]:
    async with request as response:
        text = await response.text()
        assert response.status == status, text
        error: dict[str, Any] = json.loads(text)["error"]
        return error


async def status_of(front: Front, path: str, client: str) -> int:
    async with front.get(path, headers=bearer(client)) as response:
        status: int = response.status
        return status


async def test_model_that_a_key_may_not_use_does_not_exist_for_it(
    stack: Stack, key_file: KeyFile
) -> None:
    key_file.write(one={"models": [MODEL, "not declared"]}, two={})
    front = await stack.front(**key_file.settings, MODELS=f"{MODEL},hidden")

    async def models(client: str) -> list[str]:
        async with front.get("/v1/models", headers=bearer(client)) as response:
            return [one["id"] for one in (await response.json())["data"]]

    assert await models("one") == [MODEL]
    assert await models("two") == [MODEL, "hidden"]
    for model in ("hidden", "not declared", "nowhere"):
        body = {**chat_request(), "model": model}
        for request in (
            front.post("/v1/chat/completions", body, headers=ONE),
            front.post("/v1/completions", {"model": model, "prompt": "a"}, headers=ONE),
            front.post("/v1/requests", body, headers=ONE),
            front.get(f"/v1/models/{model}", headers=ONE),
        ):
            error = await error_of(request, 404)
            assert error["code"] == "model_not_found"
            assert error["message"] == f"the model {model!r} does not exist"
    await front.submit({**chat_request(), "model": "hidden"}, **bearer("two"))
    assert await stack.idle()


@pytest.mark.parametrize("kind", ["regex", "grammar"])
async def test_structures_that_a_key_may_not_ask_for_are_403_and_nothing_is_queued(
    stack: Stack, key_file: KeyFile, kind: str
) -> None:
    key_file.write(one={"structured_outputs": [kind]}, two={}, three={"structured_outputs": []})
    front = await stack.front(**key_file.settings)
    texts = {"regex": "yes|no", "grammar": 'root ::= "yes"'}

    def asked(**structure: Any) -> dict[str, Any]:
        return {**chat_request(), "structured_outputs": structure}

    def native(**structure: Any) -> dict[str, Any]:
        return chat_request(params={"structured_outputs": structure})

    for client in ("two", "three"):
        for path, body in (
            ("/v1/chat/completions", asked(**{kind: texts[kind]})),
            ("/v1/requests", native(**{kind: texts[kind]})),
        ):
            error = await error_of(front.post(path, body, headers=bearer(client)), 403)
            assert error["code"] == "structured_output_not_allowed"
            assert error["param"] == f"structured_outputs.{kind}"
    assert await stack.idle()
    await front.submit(native(**{kind: texts[kind]}), **ONE)
    for client in ("one", "two", "three"):
        await front.submit(native(choice=["yes"]), **bearer(client))


async def test_priority_above_the_key_s_is_403_and_nothing_is_queued(
    stack: Stack, key_file: KeyFile
) -> None:
    key_file.write(one={"max_priority": "normal"}, two={})
    front = await stack.front(**key_file.settings)
    for path in ("/v1/requests", "/v1/chat/completions"):
        body = chat_request(priority="high")
        error = await error_of(front.post(path, body, headers=ONE), 403)
        assert (error["code"], error["param"]) == ("priority_not_allowed", "priority")
        assert error["type"] == "permission_error"
    assert await stack.idle()
    for priority in ("normal", "low"):
        await front.submit(chat_request(priority=priority), **ONE)
    await front.submit(chat_request(priority="high"), **bearer("two"))


async def test_new_key_is_good_and_an_old_one_is_not_without_a_restart(
    stack: Stack, key_file: KeyFile
) -> None:
    front = await stack.front(**key_file.settings)
    channel_id = await front.submit(chat_request(), **ONE)
    key_file.write(two={}, three={"admin": True})
    await wait_until(lambda: opens(front, "three"))
    assert await status_of(front, "/v1/admin/queues", "three") == 200
    assert await status_of(front, "/v1/models", "two") == 200
    for path in ("/v1/models", f"/v1/channels/{channel_id}", f"/v1/channels/{channel_id}/events"):
        assert await status_of(front, path, "one") == 401
    # What it had asked for before is kept, and belongs to no other.
    assert await status_of(front, f"/v1/channels/{channel_id}", "two") == 404
    key_file.write(one={}, two={})
    await wait_until(lambda: opens(front, "one"))
    assert await status_of(front, f"/v1/channels/{channel_id}", "one") == 200


async def opens(front: Front, client: str) -> bool:
    return await status_of(front, "/v1/models", client) == 200


@pytest.mark.parametrize("content", ["", '{"one": ', '{"one": 1}', None])
async def test_file_that_is_wrong_or_gone_changes_nothing_and_is_logged_once(
    stack: Stack, key_file: KeyFile, content: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    front = await stack.front(**key_file.settings)
    if content is None:
        key_file.path.unlink()
    else:
        key_file.write_text(content)
    logged = ""

    def log() -> str:
        nonlocal logged
        logged += capsys.readouterr().out
        return logged

    await wait_until(lambda: "api_keys_reload_failed" in log())
    assert await opens(front, "one")
    key_file.write(two={}, three={})
    await wait_until(lambda: opens(front, "three"))
    assert not await opens(front, "one")
    assert log().count("api_keys_reload_failed") == 1
    assert "key-of" not in log()


async def test_last_key_can_be_revoked(stack: Stack, key_file: KeyFile) -> None:
    front = await stack.front(**key_file.settings)
    assert await opens(front, "one")
    key_file.write()

    async def closed() -> bool:
        return not await opens(front, "one")

    await wait_until(closed)


@pytest.mark.parametrize("env", ["staging", "prod"])
async def test_without_any_key_only_dev_starts(stack: Stack, key_file: KeyFile, env: str) -> None:
    key_file.write()
    with pytest.raises(SettingsError, match="has no key"):
        async with open_front(stack.redis_url, **(key_file.settings | {"ENV": env})):
            pass
    assert await opens(await stack.front(**(key_file.settings | {"ENV": "dev"})), "one")


async def test_busy_native_stream_of_a_revoked_key_ends_with_a_named_frame(
    stack: Stack, key_file: KeyFile
) -> None:
    # Nothing but the change itself may end it: no silence comes before the answer's end.
    front = await stack.front(**key_file.settings, KEEPALIVE_S="600")
    await stack.worker(tokens_per_s=50)
    body = chat_request("a", params={"max_tokens": 50_000})
    async with front.post("/v1/requests", body, headers=ONE) as response:
        accepted = await response.json()
    theirs = await front.submit(body, **bearer("two"))
    by_key = reading(front, f"/v1/channels/{accepted['channel_id']}/events", ONE)
    by_token = reading(front, accepted["events_url"], {})
    other = reading(front, f"/v1/channels/{theirs}/events", bearer("two"))
    await wait_until(lambda: all(len(seen) > 5 for seen, _ in (by_key, by_token, other)))
    key_file.write(two={})
    for seen, task in (by_key, by_token):
        await task
        assert (seen[-1].name, seen[-1].id) == ("key_revoked", "")
        assert seen[-1].json["error"]["code"] == "key_revoked"
    count = len(other[0])
    await wait_until(lambda: len(other[0]) > count + 5)
    other[1].cancel()
    # A link that is still good by its signature opens nothing either.
    error = await error_of(front.get(accepted["events_url"]), 401)
    assert error["code"] == "key_revoked"


def reading(
    front: Front, path: str, headers: dict[str, str]
) -> tuple[list[SseEvent], asyncio.Task[None]]:
    seen: list[SseEvent] = []

    async def read() -> None:
        async with front.get(path, headers=headers) as response:
            assert response.status == 200, await response.text()
            async for event in sse_events(response):
                seen.append(event)  # noqa: PERF401  the test looks at it as it grows

    return seen, asyncio.create_task(read())


async def test_openai_answers_of_a_revoked_key_end_with_an_error_and_their_work_stops(
    stack: Stack, key_file: KeyFile
) -> None:
    front = await stack.front(**key_file.settings, KEEPALIVE_S="600")
    worker = await stack.worker(tokens_per_s=50)
    body = chat_request("a", max_tokens=50_000)

    async def streamed() -> list[str]:
        request = front.post("/v1/chat/completions", {**body, "stream": True}, headers=ONE)
        async with request as response:
            return [event.data async for event in sse_events(response)]

    async def whole() -> dict[str, Any]:
        return await error_of(front.post("/v1/chat/completions", body, headers=ONE), 401)

    answers = asyncio.gather(streamed(), whole())
    await wait_until(lambda: len(worker.engine.running) == 2)
    key_file.write(two={})
    data, error = await answers
    assert error["code"] == "key_revoked"
    assert json.loads(data[-1])["error"]["code"] == "key_revoked"
    await wait_until(stack.idle)


async def test_changed_key_of_the_same_client_ends_what_the_old_one_opened(
    stack: Stack, key_file: KeyFile
) -> None:
    front = await stack.front(**key_file.settings, KEEPALIVE_S="600")
    channel_id = await front.submit(chat_request(), **ONE)
    seen, task = reading(front, f"/v1/channels/{channel_id}/events", ONE)
    await wait_until(lambda: seen)
    key_file.write_text(json.dumps({"one": "key-of-new"}))
    await task
    assert seen[-1].name == "key_revoked"
    assert await status_of(front, f"/v1/channels/{channel_id}", "new") == 200
