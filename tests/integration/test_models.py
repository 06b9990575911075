"""`/v1/models`: what is declared, by every name it has, and how it stands."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from relais_common.jobs.errors import SettingsError
from relais_common.jobs.job import WorkerState
from relais_testing.builders import MODEL
from relais_testing.stack import Front, Stack, answer_to, chat_request, open_front
from relais_testing.waiting import wait_until

ALIASES = {"short": MODEL, "shorter": "short"}


async def model(front: Front, name: str = MODEL, **headers: str) -> dict[str, Any]:
    async with front.get(f"/v1/models/{name}", headers=headers) as response:
        assert response.status == 200, await response.text()
        body: dict[str, Any] = await response.json()
        return body


async def names(front: Front, **headers: str) -> list[str]:
    async with front.get("/v1/models", headers=headers) as response:
        assert response.status == 200, await response.text()
        return [one["id"] for one in (await response.json())["data"]]


async def stands(front: Front, state: str) -> dict[str, Any]:
    """The model, once it stands so."""

    async def looked() -> dict[str, Any] | None:
        shown = await model(front)
        return shown if shown["relais"]["state"] == state else None

    shown: dict[str, Any] | None = await wait_until(looked, every_s=0.1)
    assert shown is not None
    return shown


async def test_model_stands_ready_busy_or_without_a_worker(stack: Stack, front: Front) -> None:
    shown = await model(front)
    assert shown["max_model_len"] is None
    assert shown["relais"] == {
        "operation": "chat",
        "state": "no_worker",
        "workers": 0,
        "capacity": 0,
        "running": 0,
        "waiting": 0,
        "estimated_wait_s": None,
    }
    worker = await stack.worker(max_num_seqs=1, max_model_len=777, tokens_per_s=0.01)
    shown = await stands(front, "ready")
    assert (shown["root"], shown["max_model_len"]) == (MODEL, 777)
    assert (shown["relais"]["workers"], shown["relais"]["capacity"]) == (1, 1)
    for _ in range(3):
        await front.submit(chat_request())
    await wait_until(lambda: len(worker.held_jobs) == 1)

    async def counted() -> bool:
        relais = (await model(front))["relais"]
        return (relais["running"], relais["waiting"], relais["state"]) == (1, 2, "busy")

    await wait_until(counted, every_s=0.1)


async def test_models_say_what_they_do_whether_or_not_the_store_answers(stack: Stack) -> None:
    front = await stack.front(
        EMBEDDING_MODELS="embedder",
        RERANK_MODELS="reranker",
        CLASSIFY_MODELS="classifier",
        MODEL_ALIASES='{"vectors": "embedder"}',
    )
    expected = {
        MODEL: "chat",
        "embedder": "embeddings",
        "vectors": "embeddings",
        "reranker": "rerank",
        "classifier": "classify",
    }

    async def operations() -> dict[str, str]:
        async with front.get("/v1/models") as response:
            data = (await response.json())["data"]
        return {one["id"]: one["relais"]["operation"] for one in data}

    assert await operations() == expected

    async def unreachable() -> dict[str, Any]:
        return {}

    front.parts.model_states.all = unreachable  # type: ignore[method-assign]
    assert await operations() == expected


async def test_model_whose_servers_are_all_down_has_no_worker(stack: Stack, front: Front) -> None:
    worker = WorkerState("remote-1", MODEL, capacity=0, running=0, not_ready="no server answers")
    await stack.store.registry.beat(worker, ttl_s=60)
    shown = await model(front)
    assert (shown["relais"]["state"], shown["relais"]["capacity"]) == ("no_worker", 0)
    await stack.store.registry.beat(replace(worker, capacity=4, not_ready=None), ttl_s=60)
    assert (await stands(front, "ready"))["relais"]["capacity"] == 4


async def test_adapter_is_shown_with_its_parent_while_a_worker_tells_of_it(stack: Stack) -> None:
    front = await stack.front(MODELS=f"{MODEL},adapter", MODEL_ALIASES='{"short": "adapter"}')
    assert (await model(front, "adapter"))["parent"] is None
    worker = WorkerState("w/adapter", "adapter", capacity=4, running=0, parent=MODEL)
    await stack.store.registry.beat(worker, ttl_s=60)

    async def told() -> bool:
        return bool((await model(front, "adapter"))["parent"] == MODEL)

    await wait_until(told, every_s=0.1)
    assert (await model(front, "short"))["parent"] == MODEL
    assert (await model(front))["parent"] is None


async def test_alias_is_its_model_in_every_way(stack: Stack) -> None:
    front = await stack.front(MODEL_ALIASES=json.dumps(ALIASES))
    await stack.worker()
    assert await names(front) == [MODEL, "short", "shorter"]
    shown = await model(front, "shorter")
    assert (shown["id"], shown["root"]) == ("shorter", MODEL)
    async with front.post(
        "/v1/chat/completions", chat_request("a") | {"model": "short"}
    ) as response:
        body = await response.json()
    # As vLLM does with its names: the answer says the model's own.
    assert body["model"] == MODEL
    assert body["choices"][0]["message"]["content"] == answer_to("a")
    channel_id = await front.submit(chat_request("b") | {"model": "shorter"})
    assert (await front.state(channel_id))["model"] == MODEL


async def test_key_sees_its_own_models_and_their_aliases(stack: Stack, tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    keys = {
        "all": {"key": "key-of-all", "models": [MODEL]},
        "one": {"key": "key-of-one", "models": ["short"]},
    }
    path.write_text(json.dumps(keys))
    front = await stack.front(ENV="prod", API_KEYS=str(path), MODEL_ALIASES=json.dumps(ALIASES))
    assert await names(front, Authorization="Bearer key-of-all") == [MODEL, "short", "shorter"]
    assert await names(front, Authorization="Bearer key-of-one") == ["short"]
    async with front.get(
        f"/v1/models/{MODEL}", headers={"Authorization": "Bearer key-of-one"}
    ) as response:
        assert response.status == 404


async def test_circle_of_aliases_does_not_start(stack: Stack) -> None:
    with pytest.raises(SettingsError, match="circle"):
        async with open_front(stack.redis_url, MODEL_ALIASES="{'a': 'b', 'b': 'a'}"):
            pass


async def test_many_who_ask_are_one_question_to_redis(
    stack: Stack, front: Front, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = 0
    alive = front.parts.registry.alive

    async def counted() -> Any:
        nonlocal asked
        asked += 1
        return await alive()

    monkeypatch.setattr(front.parts.registry, "alive", counted)
    monkeypatch.setattr("relais_orchestrator.submission.model_states.FRESH_S", 3600.0)
    await asyncio.gather(*(names(front) for _ in range(50)))
    assert asked == 1
