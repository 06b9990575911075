"""Workers are scaled by what waits and runs: to none and back, and never away from a request that runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from relais_orchestrator.metrics import queues
from relais_testing.builders import MODEL
from relais_testing.keda import read_value, wanted_replicas
from relais_testing.manifests import MINIKUBE
from relais_testing.sse_client import read_events, text_of
from relais_testing.stack import Front, Stack, answer_to, chat_request
from relais_testing.valkey import ValkeyServer
from relais_testing.waiting import wait_until


@pytest.fixture(autouse=True)
def look_every_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queues, "FRESH_S", 0.0)


def trigger() -> dict[str, str]:
    """The llm worker's, with the model of these tests."""
    text = Path(MINIKUBE / "base" / "llm-worker.yaml").read_text()
    (scaled,) = [one for one in yaml.safe_load_all(text) if one["kind"] == "ScaledObject"]
    metadata: dict[str, str] = scaled["spec"]["triggers"][0]["metadata"]
    return metadata | {"valueLocation": metadata["valueLocation"].replace("relais-demo", MODEL)}


async def unfinished(front: Front) -> float | None:
    async with front.session.get(f"{front.url}/metrics") as response:
        return read_value(await response.text(), trigger()["valueLocation"])


async def test_model_at_zero_takes_requests_and_asks_for_a_worker(
    stack: Stack, front: Front
) -> None:
    assert await unfinished(front) == 0
    channel_id = await front.submit(chat_request("hello", params={"max_tokens": 40}))
    waiting = await unfinished(front)
    assert waiting == 1
    assert wanted_replicas(waiting, int(trigger()["targetValue"]), most=4) == 1

    await stack.worker(tokens_per_s=100)

    events = await read_events(front.session, f"{front.url}/v1/channels/{channel_id}/events")
    assert text_of(events) == answer_to("hello", 40)
    assert await unfinished(front) == 0


async def test_model_that_only_runs_is_not_idle(stack: Stack, front: Front) -> None:
    worker = await stack.worker(tokens_per_s=50)
    channel_id = await front.submit(chat_request(params={"max_tokens": 20_000}))

    async def runs() -> bool:
        depth = await stack.store.intake.depth(MODEL)
        return (depth.waiting, depth.running) == (0, 1)

    await wait_until(runs)
    assert await unfinished(front) == 1
    with worker.faults.cut_off():
        async with front.session.delete(f"{front.url}/v1/channels/{channel_id}") as response:
            assert response.status == 202

    async def idle() -> bool:
        return await unfinished(front) == 0

    await wait_until(idle)


async def test_number_is_absent_rather_than_zero_while_redis_is_away(
    make_redis_server: Callable[..., ValkeyServer],
) -> None:
    server = make_redis_server()
    stack = await Stack.open(server.url)
    front = await stack.front()
    assert await unfinished(front) == 0
    server.kill()
    assert await unfinished(front) is None
    await stack.close()
