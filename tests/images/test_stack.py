"""All of it in containers: requests, vectors, key figures; Redis killed; more of each kind; a clean end."""

from __future__ import annotations

import json
import subprocess
from datetime import UTC, datetime

import httpx
import pytest

from relais_testing.composed import Composed
from relais_testing.waiting import LIVENESS_S, block_until

# Whoever comes first starts all of it.
pytestmark = pytest.mark.timeout(900)

WORDS = {"model": "relais-demo", "messages": [{"role": "user", "content": "Bonjour"}]}


def streamed_text(url: str, *, max_tokens: int) -> str:
    """What a streamed chat completion says, read to its end."""
    text, ended = "", False
    body = {**WORDS, "stream": True, "max_tokens": max_tokens}
    with httpx.stream(
        "POST", f"{url}/v1/chat/completions", json=body, timeout=LIVENESS_S
    ) as response:
        assert response.status_code == 200, response.read()
        for line in response.iter_lines():
            if line == "data: [DONE]":
                ended = True
            elif line.startswith("data: "):
                text += json.loads(line[6:])["choices"][0]["delta"].get("content") or ""
    assert ended
    return text


def test_the_api_is_published_with_its_page(stack: Composed) -> None:
    assert httpx.get(f"{stack.url()}/docs").status_code == 200
    assert httpx.get(f"{stack.url()}/readyz").status_code == 200
    for service in ("redis", "mongodb", "llm-worker", "embedding-worker"):
        ports = stack.inspect(service)["NetworkSettings"]["Ports"]
        assert not any(ports.values()), service


def test_redis_wants_its_password(stack: Composed) -> None:
    assert "NOAUTH" in stack.shell("redis", "env -u REDISCLI_AUTH redis-cli get x")[1]
    ask = 'REDISCLI_AUTH="$REDIS_PASSWORD" redis-cli --raw config get '
    assert stack.shell("redis", ask + "maxmemory-policy")[1].split()[-1] == "noeviction"
    assert stack.shell("redis", ask + "appendonly")[1].split()[-1] == "yes"
    # Nowhere that others can read it.
    assert stack.settings["REDIS_PASSWORD"] not in stack.shell("redis", "cat /proc/1/cmdline")[1]


def test_a_request_streams(stack: Composed) -> None:
    assert len(streamed_text(stack.url(), max_tokens=10).split()) == 10


def test_texts_become_vectors(stack: Composed) -> None:
    """The real model, out of the image, with no network needed for it."""
    answer = httpx.post(
        f"{stack.url()}/v1/embeddings",
        json={"model": "all-MiniLM-L6-v2", "input": ["a town hall", "a city hall", "a banana"]},
        timeout=LIVENESS_S,
    ).json()
    near, same, far = (one["embedding"] for one in answer["data"])
    assert len(near) == 384
    assert sum(a * b for a, b in zip(near, same, strict=True)) > 0.7
    assert sum(a * b for a, b in zip(near, far, strict=True)) < 0.5


def test_key_figures_come_of_what_was_served(stack: Composed) -> None:
    for _ in range(3):
        streamed_text(stack.url(), max_tokens=3)
    block_until(lambda: "waiting" not in traces_waiting(stack), every_s=0.2)

    stack.run("run", "--rm", "kpi")

    today = datetime.now(UTC).date().isoformat()
    report = stack.run(
        *("run", "--rm", "kpi", "report", "--since", today, "--until", today, "--format", "json")
    )
    (row,) = [one for one in json.loads(report)["rows"] if one["name"] == "relais-demo"]
    assert row["figures"]["completed"] >= 3


def traces_waiting(stack: Composed) -> str:
    metrics = httpx.get(f"{stack.url()}/metrics").text
    lines = [one for one in metrics.splitlines() if one.startswith("relais_traces_waiting{")]
    return " ".join("waiting" for one in lines if float(one.split()[-1]))


def test_a_stream_outlives_its_redis(stack: Composed) -> None:
    """Killed in mid-answer and started again: the same stream goes on to its end, and new requests are served."""
    url = stack.url()
    body = {**WORDS, "params": {"max_tokens": 120}}
    accepted = httpx.post(f"{url}/v1/requests", json=body).json()
    ids: list[int] = []
    name = ""
    with httpx.stream("GET", url + accepted["events_url"], timeout=LIVENESS_S) as response:
        for line in response.iter_lines():
            if line.startswith("event: "):
                name = line[7:]
            if line.startswith("id: "):
                ids.append(int(line[4:]))
            if len(ids) == 15 and line.startswith("data: "):
                stack.run("kill", "--signal", "KILL", "redis")
                stack.run("start", "redis")

    assert name == "completed"
    assert ids == list(range(1, len(ids) + 1))
    block_until(lambda: httpx.get(f"{url}/readyz").status_code == 200, every_s=0.2)
    assert len(streamed_text(url, max_tokens=5).split()) == 5


def test_two_of_each_serve_each_other_s_channels(stack: Composed) -> None:
    stack.run(
        *("up", "--detach", "--wait", "--no-build", "--no-recreate"),
        *("--scale", "orchestrator=2", "--scale", "llm-worker=2"),
    )
    first, second = stack.url(1), stack.url(2)
    assert first != second

    accepted = httpx.post(f"{first}/v1/requests", json={**WORDS, "params": {"max_tokens": 5}})
    with httpx.stream(
        "GET", second + accepted.json()["events_url"], timeout=LIVENESS_S
    ) as response:
        assert "event: completed" in response.read().decode()

    def workers() -> int:
        code, said = stack.shell("orchestrator", "relais admin workers --json --model relais-demo")
        return len(json.loads(said)["workers"]) if code == 0 else 0

    block_until(lambda: workers() == 2, every_s=0.2)


def test_a_stopped_service_has_drained(stack: Composed) -> None:
    """SIGTERM reaches the service through tini; a kill would be 137."""
    for service in ("llm-worker", "embedding-worker", "orchestrator"):
        ids = stack.containers(service)
        stack.run("stop", service)
        for one in ids:
            state = subprocess.run(
                ["docker", "inspect", "--format", "{{.State.ExitCode}}", one],
                capture_output=True,
                text=True,
                check=True,
            )
            assert state.stdout.strip() == "0", service
