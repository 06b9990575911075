"""`relais admin` over the real server: what it prints, what it does, what it exits with."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import pytest
from redis import Redis

from relais_admin.command import main
from relais_common.jobs.channels import new_channel_id
from relais_common.jobs.chat import Message
from relais_common.jobs.job import WorkerState
from relais_common.queue import keys
from relais_common.queue.redis_store import RedisSettings, open_store
from relais_testing.builders import MODEL, make_job
from relais_testing.ports import Ports, redis_ports
from relais_testing.steps import crash, enqueue, names, running, start, take
from relais_testing.tcp_ports import free_port
from relais_testing.waiting import LIVENESS_S

SECRET = "what only its model may read"
Result = TypeVar("Result")


@dataclass
class Admin:
    """The command, with a Redis that it can find."""

    url: str
    capsys: pytest.CaptureFixture[str]

    def run(self, *arguments: str) -> tuple[int, str, str]:
        """Exit code, standard output, standard error."""
        code = main(arguments)
        printed = self.capsys.readouterr()
        assert SECRET not in printed.out + printed.err
        return code, printed.out, printed.err

    def json(self, *arguments: str) -> Any:
        code, out, err = self.run(*arguments, "--json")
        assert (code, err) == (0, "")
        return json.loads(out)

    def do(self, work: Callable[[Ports], Awaitable[Result]]) -> Result:
        """Work on the queue, as clients and workers do."""

        async def connected() -> Result:
            async with open_store(RedisSettings(self.url)) as store:
                return await work(redis_ports(store))

        return asyncio.run(connected())


@pytest.fixture
def admin(
    redis_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Admin:
    monkeypatch.setenv("REDIS_URL", redis_url)
    monkeypatch.setenv("MODELS", MODEL)
    return Admin(redis_url, capsys)


def secret_job() -> Any:
    return make_job("key-a", messages=(Message("user", SECRET),))


async def dead(ports: Ports) -> str:
    taken = await running(ports, secret_job())
    await start(ports, taken.lease)
    await crash(ports, taken.lease, max_failures=1)
    return taken.job.channel_id


async def one_of_each(ports: Ports) -> tuple[str, str]:
    """A running and a waiting request, and a worker."""
    await enqueue(ports, first := secret_job(), second := secret_job())
    await take(ports, 1)
    await ports.registry.beat(WorkerState("worker-1", MODEL, capacity=4, running=1), ttl_s=60)
    return first.channel_id, second.channel_id


def short(channel_id: str) -> str:
    return "." + channel_id.rpartition(".")[2]


def test_queues_are_shown_without_any_orchestrator(admin: Admin) -> None:
    admin.do(one_of_each)
    (queue,) = admin.json("queues")["queues"]
    assert (queue["model"], queue["waiting"], queue["running"]) == (MODEL, 1, 1)
    code, out, _ = admin.run("queues")
    assert code == 0
    assert "key-a 1" in out


def test_workers_are_shown(admin: Admin) -> None:
    assert admin.run("workers") == (0, "no workers\n", "")
    admin.do(one_of_each)
    (worker,) = admin.json("workers")["workers"]
    assert (worker["worker_id"], worker["capacity"]) == ("worker-1", 4)
    assert admin.json("workers", "--model", "other")["workers"] == []


def test_channels_are_shown(admin: Admin) -> None:
    held, waiting = admin.do(one_of_each)
    listed = [one["channel_id"] for one in admin.json("channels")["channels"]]
    assert listed == [held, waiting]
    _, out, _ = admin.run("channels", "--status", "queued")
    assert short(waiting) in out
    assert short(held) not in out


def test_dead_letter_is_listed_shown_and_replayed_once(admin: Admin) -> None:
    old = admin.do(dead)
    (letter,) = admin.json("dead")["dead_letters"]
    assert letter["channel_id"] == old
    assert admin.json("dead", "show", short(old))["code"] == "worker_lost"
    first = admin.json("dead", "replay", short(old))
    again = admin.json("dead", "replay", old)
    assert first == again
    assert (first["replay_of"], first["status"]) == (old, "queued")
    assert admin.json("dead", "list")["dead_letters"] == []
    assert admin.json("dead", "show", old)["replayed_as"] == first["channel_id"]
    assert admin.do(lambda ports: names(ports, first["channel_id"])) == ["queued"]
    assert admin.json("queues")["queues"][0]["waiting"] == 1


def test_dead_letter_is_dropped(admin: Admin) -> None:
    old = admin.do(dead)
    assert admin.json("dead", "drop", old) == {"channel_id": old, "dropped": True}
    assert admin.run("dead")[1] == f"{MODEL}: no dead letters\n"


def test_full_queue_is_a_failure(admin: Admin, monkeypatch: pytest.MonkeyPatch) -> None:
    old = admin.do(dead)
    admin.do(lambda ports: enqueue(ports, make_job()))
    monkeypatch.setenv("MAX_WAITING", "1")
    code, out, err = admin.run("dead", "replay", old)
    assert (code, out) == (1, "")
    assert "wait" in err


def test_waiting_request_is_cancelled_and_a_running_one_asked_to_stop(admin: Admin) -> None:
    held, waiting = admin.do(one_of_each)
    assert admin.json("cancel", short(waiting)) == {"channel_id": waiting, "status": "cancelled"}
    assert admin.json("cancel", held)["status"] == "running"
    (left,) = admin.json("channels")["channels"]
    assert (left["channel_id"], left["stop"]) == (held, "client")
    assert admin.run("cancel", waiting) == (0, f"{waiting}: cancelled\n", "")


@pytest.mark.parametrize(
    "command", [("dead", "show"), ("dead", "replay"), ("dead", "drop"), ("cancel",)]
)
def test_unknown_channel_exits_with_1(admin: Admin, command: tuple[str, ...]) -> None:
    code, out, err = admin.run(*command, new_channel_id(MODEL))
    assert (code, out) == (1, "")
    assert err.startswith("relais admin: there is no ")
    assert err.count("\n") == 1


def test_wrong_setting_exits_with_2_and_names_it(
    admin: Admin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REDIS_URL", "http://somewhere")
    code, out, err = admin.run("queues")
    assert (code, out) == (2, "")
    assert "REDIS_URL" in err


def test_redis_that_does_not_answer_exits_with_1_and_shows_no_password(
    admin: Admin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REDIS_URL", f"redis://:pa55word@127.0.0.1:{free_port()}/0")
    code, out, err = admin.run("queues")
    assert (code, out) == (1, "")
    assert err.startswith("relais admin: Redis does not answer: ")
    assert err.count("\n") == 1
    assert "pa55word" not in err


def test_command_runs_as_a_process(admin: Admin) -> None:
    old = admin.do(dead)
    result = subprocess.run(
        [sys.executable, "-m", "relais_admin", "dead", "replay", short(old)],
        env={"PATH": os.environ["PATH"], "REDIS_URL": admin.url, "MODELS": MODEL},
        capture_output=True,
        text=True,
        timeout=LIVENESS_S,
        check=False,
    )
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.startswith("replayed as ")


def test_letter_of_another_version_is_a_failure_without_a_traceback(admin: Admin) -> None:
    old = admin.do(dead)
    with Redis.from_url(admin.url) as redis:
        redis.hset(keys.job(old), "payload", "{}")
    code, out, err = admin.run("dead", "replay", old)
    assert (code, out) == (1, "")
    assert err == "relais admin: this request was made by another version\n"


def test_record_of_another_version_is_a_failure_without_a_traceback(admin: Admin) -> None:
    admin.do(one_of_each)
    with Redis.from_url(admin.url) as redis:
        redis.set(keys.worker("worker-1"), '{"worker_id": "worker-1"}', ex=60)
    code, out, err = admin.run("workers")
    assert (code, out) == (1, "")
    assert "another version" in err
    assert err.count("\n") == 1
