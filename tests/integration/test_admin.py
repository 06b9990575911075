"""The operators' routes: who may use them, what they show, and what they never show."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from relais_common.jobs.channels import new_channel_id
from relais_testing.builders import MODEL, make_job
from relais_testing.ports import redis_ports
from relais_testing.stack import Front, Stack, chat_request
from relais_testing.steps import enqueue, names, running, start
from relais_testing.waiting import wait_until

SECRET = "what only its model may read"
KEYS = {
    "one": "secret-of-one",
    "two": {"key": "secret-of-two", "admin": False},
    "ops": {"key": "secret-of-ops", "admin": True},
}


async def get(front: Front, path: str, **headers: str) -> dict[str, Any]:
    async with front.get(f"/v1/admin/{path}", headers=headers) as response:
        text = await response.text()
        assert response.status == 200, text
        assert SECRET not in text
        assert "secret-of" not in text
        body: dict[str, Any] = json.loads(text)
        return body


async def error_of(request: Any, status: int) -> dict[str, Any]:
    async with request as response:
        text = await response.text()
        assert response.status == status, text
        error: dict[str, Any] = json.loads(text)["error"]
        return error


async def dead(stack: Stack) -> str:
    """The channel of a request that was set aside."""
    ports = redis_ports(stack.store)
    taken = await running(ports, make_job("one"))
    await start(ports, taken.lease)
    # In one step: a lease that runs out may be found by the front's own reaper first.
    await ports.source.release([taken.lease], max_failures=1)
    return taken.job.channel_id


def every_route(front: Front, **headers: str) -> list[Any]:
    letter = f"dead-letters/{new_channel_id(MODEL)}"
    return [
        front.get("/v1/admin/queues", headers=headers),
        front.get("/v1/admin/workers", headers=headers),
        front.get("/v1/admin/channels", headers=headers),
        front.get("/v1/admin/dead-letters", headers=headers),
        front.post(f"/v1/admin/{letter}/replay", b"", headers=headers),
        front.delete(f"/v1/admin/{letter}", headers=headers),
    ]


@pytest.fixture
async def guarded(stack: Stack, tmp_path: Path) -> Front:
    """An orchestrator with keys, one of which is an operator's."""
    path = tmp_path / "keys.json"
    path.write_text(json.dumps(KEYS))
    return await stack.front(ENV="prod", API_KEYS=str(path))


def bearer(client: str) -> dict[str, str]:
    return {"Authorization": f"Bearer secret-of-{client}"}


async def test_key_without_the_right_is_403_on_every_route(guarded: Front) -> None:
    for client in ("one", "two"):
        for request in every_route(guarded, **bearer(client)):
            error = await error_of(request, 403)
            assert (error["code"], error["type"]) == ("admin_required", "permission_error")


async def test_no_key_and_unknown_keys_are_401_on_every_route(guarded: Front) -> None:
    for headers in ({}, bearer("nobody")):
        for request in every_route(guarded, **headers):
            assert (await error_of(request, 401))["code"] == "invalid_api_key"


async def test_admin_key_sees_all_keys_work_and_is_a_client_too(guarded: Front) -> None:
    mine = await guarded.submit(chat_request(SECRET), **bearer("ops"))
    theirs = await guarded.submit(chat_request(SECRET), **bearer("one"))
    body = await get(guarded, "channels", **bearer("ops"))
    assert [(one["channel_id"], one["key_id"]) for one in body["channels"]] == [
        (mine, "ops"),
        (theirs, "one"),
    ]
    # The right is for these routes: another key's answer stays that key's.
    async with guarded.get(f"/v1/channels/{theirs}", headers=bearer("ops")) as response:
        assert response.status == 404


async def test_dev_with_a_key_file_asks_for_the_right(stack: Stack, tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    path.write_text(json.dumps(KEYS))
    front = await stack.front(ENV="dev", API_KEYS=str(path))
    for headers in ({}, bearer("one"), bearer("nobody")):
        error = await error_of(front.get("/v1/admin/queues", headers=headers), 403)
        assert error["code"] == "admin_required"
    await get(front, "queues", **bearer("ops"))


async def test_queues_of_all_declared_models_are_shown(stack: Stack) -> None:
    aliases = json.dumps({"alias": MODEL})
    front = await stack.front(MODELS=f"{MODEL},other", MODEL_ALIASES=aliases)
    await front.submit(chat_request(SECRET, priority="high"))
    await front.submit(chat_request(SECRET))
    used, unused = (await get(front, "queues"))["queues"]
    assert (used["model"], unused["model"]) == (MODEL, "other")
    assert used["waiting"] == 2
    assert used["waiting_by_priority"] == {"high": 1, "normal": 1, "low": 0, "batch": 0}
    assert used["waiting_by_key"] == [{"key_id": "anonymous", "waiting": 2}]
    assert used["oldest_waiting_s"] >= 0
    assert unused["waiting"] == 0
    assert unused["oldest_waiting_s"] is None
    for name in (MODEL, "alias"):
        (only,) = (await get(front, f"queues?model={name}"))["queues"]
        assert only["model"] == MODEL


async def test_workers_are_shown_with_their_load(front: Front, stack: Stack) -> None:
    assert await get(front, "workers") == {"workers": []}
    worker = await stack.worker(tokens_per_s=20)

    async def workers() -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = (await get(front, "workers"))["workers"]
        return found

    (shown,) = await wait_until(workers)
    assert (shown["worker_id"], shown["model"], shown["capacity"]) == (worker.worker_id, MODEL, 8)
    assert await get(front, "workers?model=other") == {"workers": []}


async def test_channels_can_be_narrowed_down(front: Front, stack: Stack) -> None:
    worker = await stack.worker(tokens_per_s=20, max_num_seqs=1)
    body = chat_request(SECRET, params={"max_tokens": 10_000})
    held = await front.submit(body)
    await wait_until(lambda: held in worker.engine.running)
    waiting = [await front.submit(body) for _ in range(3)]

    async def ids(query: str) -> list[str]:
        return [one["channel_id"] for one in (await get(front, f"channels?{query}"))["channels"]]

    assert await ids("") == [held, *waiting]
    assert await ids("status=running") == [held]
    assert await ids("status=queued&limit=2") == waiting[:2]
    assert await ids("status=queued&latest=true") == waiting[::-1]
    assert await ids(f"status=suspect&model={MODEL}") == []
    (running_one,) = (await get(front, "channels?status=running"))["channels"]
    assert running_one["worker"] == worker.worker_id
    assert running_one.keys() == {
        "channel_id",
        "key_id",
        "priority",
        "operation",
        "status",
        "age_s",
        "deadline_in_s",
        "running_s",
        "worker",
        "takes",
        "failures",
        "tail",
        "stop",
    }


@pytest.mark.parametrize(
    ("path", "param"),
    [
        ("channels?limit=0", "limit"),
        ("channels?limit=1001", "limit"),
        ("channels?limit=x", "limit"),
        ("channels?limit=", "limit"),
        ("channels?status=completed", "status"),
        ("channels?latest=perhaps", "latest"),
        ("channels?what=1", "what"),
        ("queues?limit=5", "limit"),
        ("dead-letters?status=all", "status"),
        ("dead-letters?limit=1e3", "limit"),
        ("workers?%FF=1", "\ufffd"),
        ("queues?model=", "model"),
    ],
)
async def test_wrong_query_names_the_parameter(front: Front, path: str, param: str) -> None:
    error = await error_of(front.get(f"/v1/admin/{path}"), 400)
    assert (error["type"], error["param"]) == ("invalid_request_error", param)


async def test_undeclared_model_is_404(front: Front) -> None:
    for route in ("queues", "channels", "dead-letters"):
        error = await error_of(front.get(f"/v1/admin/{route}?model=nothing"), 404)
        assert (error["code"], error["param"]) == ("model_not_found", "model")


async def test_dead_letter_is_shown_with_its_reason(front: Front, stack: Stack) -> None:
    channel_id = await dead(stack)
    (letter,) = (await get(front, "dead-letters"))["dead_letters"]
    assert (letter["channel_id"], letter["key_id"]) == (channel_id, "one")
    assert (letter["failures"], letter["worker"], letter["code"]) == (1, "worker-1", "worker_lost")
    assert letter["failed_at_s"] >= letter["accepted_at_s"]


async def test_replayed_dead_letter_is_answered_on_a_new_channel(
    front: Front, stack: Stack
) -> None:
    old = await dead(stack)
    path = f"/v1/admin/dead-letters/{old}/replay"
    answers = []
    for _ in range(2):
        async with front.post(path, b"") as response:
            assert response.status == 202, await response.text()
            answers.append(await response.json())
    new = answers[0]["channel_id"]
    assert new == answers[1]["channel_id"] != old
    assert answers[0] == {
        "channel_id": new,
        "replay_of": old,
        "status": "queued",
        "queue_position": 1,
        "estimated_wait_s": None,
    }
    assert await get(front, "dead-letters") == {"dead_letters": []}
    assert (await get(front, "queues"))["queues"][0]["waiting"] == 1
    await stack.worker()
    ports = redis_ports(stack.store)

    async def has_ended() -> bool:
        return (await names(ports, new))[-1] == "completed"

    await wait_until(has_ended)
    assert (await names(ports, old))[-1] == "failed"


async def test_replay_into_a_full_queue_is_429(stack: Stack) -> None:
    front = await stack.front(MAX_WAITING="1")
    old = await dead(stack)
    await enqueue(redis_ports(stack.store), make_job())
    error = await error_of(front.post(f"/v1/admin/dead-letters/{old}/replay", b""), 429)
    assert error["code"] == "queue_full"
    assert len((await get(front, "dead-letters"))["dead_letters"]) == 1


async def test_dropped_dead_letter_is_gone(front: Front, stack: Stack) -> None:
    channel_id = await dead(stack)
    async with front.delete(f"/v1/admin/dead-letters/{channel_id}") as response:
        assert response.status == 200
        assert await response.json() == {"channel_id": channel_id, "dropped": True}
    assert await get(front, "dead-letters") == {"dead_letters": []}
    await error_of(front.post(f"/v1/admin/dead-letters/{channel_id}/replay", b""), 404)
    assert await stack.idle()


async def test_what_is_no_dead_letter_is_404(front: Front, stack: Stack) -> None:
    alive = await front.submit(chat_request())
    for channel_id in (alive, new_channel_id(MODEL), "x", "x~ff.AAAAAAAAAAAAAAAAAAAAAA"):
        for request in (
            front.post(f"/v1/admin/dead-letters/{channel_id}/replay", b""),
            front.delete(f"/v1/admin/dead-letters/{channel_id}"),
        ):
            error = await error_of(request, 404)
            assert (error["code"], error["param"]) == ("dead_letter_not_found", "channel_id")
    assert (await stack.store.intake.depth(MODEL)).waiting == 1


async def test_other_methods_are_405(front: Front) -> None:
    error = await error_of(front.post("/v1/admin/queues", {}), 405)
    assert error["code"] == "method_not_allowed"
    error = await error_of(front.get(f"/v1/admin/dead-letters/{new_channel_id(MODEL)}"), 405)
    assert error["code"] == "method_not_allowed"
