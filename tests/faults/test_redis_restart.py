"""Redis is killed, frozen and brought back under real processes at work: they wait, and nothing is lost or doubled."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import aiohttp
import psutil
import pytest
from redis import Redis

from relais_common.queue import codec, keys
from relais_llm_worker.engines.engine_deterministic import answer_text
from relais_testing.native_client import events_url
from relais_testing.power_loss import wait_written
from relais_testing.process_stack import DETERMINISTIC, MODEL, Starter, make_starter
from relais_testing.processes import ServiceProcess
from relais_testing.sse_client import SseEvent, ids_of, sse_events, text_of
from relais_testing.valkey import ValkeyServer
from relais_testing.waiting import block_until, wait_until

TOKENS = 300
PACED = {**DETERMINISTIC, "DETERMINISTIC_TOKENS_PER_S": "40", "VLLM_MAX_NUM_SEQS": "8"}
# Longer than any outage here and what a busy machine adds to it: nobody alive loses a job.
LEASES = {"LEASE_S": "60", "WATCH_LEASE_S": "60"}
MOST_CPU = 0.5
"""Of one core, while Redis is away. A loop that spins takes all of one."""


@pytest.fixture
def server(make_redis_server: Callable[..., ValkeyServer]) -> ValkeyServer:
    """As `scripts/bootstrap.sh` sets it up."""
    return make_redis_server(appendonly=True, options={"appendfsync": "everysec"})


@pytest.fixture
def start(server: ValkeyServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Starter]:
    with ExitStack() as stack:
        yield make_starter(stack, server, tmp_path_factory.mktemp("logs"))


@pytest.fixture
def fleet(start: Starter) -> list[ServiceProcess]:
    """Two orchestrators, then two workers."""
    return [start("orchestrator", **LEASES) for _ in range(2)] + [
        start("llm_worker", **PACED, **LEASES) for _ in range(2)
    ]


class Client:
    """Submits one request until it is accepted, and reads its stream until it ends."""

    def __init__(self, session: aiohttp.ClientSession, front: ServiceProcess, name: str) -> None:
        self.name = name
        self.channel_id: str | None = None
        self.events: list[SseEvent] = []
        self.connections = 0
        self._session = session
        self._url = front.url

    async def submit(self) -> None:
        body = {
            "model": MODEL,
            "prompt": self.name,
            "params": {"max_tokens": TOKENS},
            "on_disconnect": "cancel" if self.name[-1] in "02468" else "continue",
        }
        headers = {"Idempotency-Key": self.name}
        while self.channel_id is None:
            async with self._session.post(
                f"{self._url}/v1/requests", json=body, headers=headers
            ) as response:
                answer = await response.json()
                if response.status == 202:
                    self.channel_id = answer["channel_id"]
                else:
                    assert response.status == 503, answer
                    await asyncio.sleep(0.1)

    async def read(self) -> None:
        assert self.channel_id is not None
        url = events_url(self._url, self.channel_id)
        while not self.events or self.events[-1].name in ("queued", "started", "token"):
            headers = {"Last-Event-ID": str(len(self.events))}
            async with self._session.get(url, headers=headers) as response:
                if response.status == 503:
                    await asyncio.sleep(0.1)
                    continue
                assert response.status == 200, await response.text()
                self.connections += 1
                async for event in sse_events(response):
                    if event.name != "queued" or event.id:  # not a place in the queue
                        self.events.append(event)

    def check(self) -> None:
        """Every event once, in order, and the answer to the letter."""
        assert ids_of(self.events) == list(range(1, len(self.events) + 1))
        names = [event.name for event in self.events]
        assert (names.count("started"), names[-1]) == (1, "completed"), self.events[-1]
        assert text_of(self.events) == answer_text(list(self.name.encode()), TOKENS)


def check_all_ended_once(server: ValkeyServer, clients: list[Client]) -> None:
    with Redis.from_url(server.url) as redis:
        for client in clients:
            assert client.channel_id is not None
            lines = redis.lrange(keys.log(client.channel_id), 0, -1)
            kinds = [codec.split_event(line)[0] for line in lines]
            assert [kind for kind in kinds if kind in codec.TERMINAL_NAMES] == [b"completed"]
        assert redis.hget(keys.counts(MODEL), "waiting") == b"0"
        for name in (keys.inflight(MODEL), keys.deadlines(MODEL), keys.watched(MODEL)):
            assert redis.zcard(name) == 0


async def answers_to_all(session: aiohttp.ClientSession, fronts: list[ServiceProcess]) -> None:
    """Every orchestrator is ready again."""
    for front in fronts:

        async def ready(front: ServiceProcess = front) -> bool:
            return await status(session, f"{front.url}/readyz") == 200

        await wait_until(ready)


async def status(session: aiohttp.ClientSession, url: str) -> int:
    async with session.get(url) as response:
        return response.status


def cpu_s(process: ServiceProcess) -> float:
    times = psutil.Process(process.pid).cpu_times()
    return float(times.user + times.system)


@pytest.mark.slow
async def test_killed_redis_loses_and_doubles_nothing_while_a_worker_lives_to_heal_the_log(
    server: ValkeyServer, fleet: list[ServiceProcess], session: aiohttp.ClientSession
) -> None:
    clients = [Client(session, fleet[number % 2], f"request {number}") for number in range(24)]
    early, late = clients[:16], clients[16:]
    for client in early:
        await client.submit()
    # While the disk is busy the server answers before it writes, and a kill loses that: see docs/protocol.md.
    await asyncio.to_thread(wait_written, server.url)
    async with asyncio.TaskGroup() as group:
        for client in early:
            group.create_task(client.read())
        for _ in range(4):
            await progress(early)
            await asyncio.to_thread(server.restart)
            await answers_to_all(session, fleet[:2])
        for client in late:
            group.create_task(submit_and_read(client))
    for client in clients:
        client.check()
        assert client.connections == 1
    assert all(process.alive for process in fleet)
    await asyncio.to_thread(wait_idle, server)
    check_all_ended_once(server, clients)


async def progress(clients: list[Client]) -> None:
    """Wait until every stream has gone on by a little, or has ended."""
    goals = [min(len(client.events) + 15, TOKENS) for client in clients]

    def reached() -> bool:
        return all(len(client.events) >= goal for client, goal in zip(clients, goals, strict=True))

    await wait_until(reached)


async def submit_and_read(client: Client) -> None:
    await client.submit()
    await client.read()


def wait_idle(server: ValkeyServer) -> None:
    with Redis.from_url(server.url) as redis:
        block_until(lambda: redis.zcard(keys.inflight(MODEL)) == 0)


@pytest.mark.realtime  # how busy a process is shows over seconds
async def test_while_redis_is_away_requests_are_refused_and_every_process_lives_and_rests(
    server: ValkeyServer, fleet: list[ServiceProcess], session: aiohttp.ClientSession
) -> None:
    fronts, client = fleet[:2], Client(session, fleet[0], "held through it")
    await client.submit()
    reading = asyncio.create_task(client.read())
    await wait_until(lambda: len(client.events) > 10)
    await asyncio.to_thread(wait_written, server.url)
    await asyncio.to_thread(server.kill)
    for front in fronts:
        for route, body in (
            ("/v1/requests", {"model": MODEL, "prompt": "a"}),
            ("/v1/completions", {"model": MODEL, "prompt": "a"}),
            ("/v1/completions", {"model": MODEL, "prompt": "a", "stream": True}),
        ):
            async with session.post(front.url + route, json=body) as response:
                assert response.status == 503
                assert int(response.headers["Retry-After"]) >= 1
                assert (await response.json())["error"]["code"] == "store_unavailable"
        assert await status(session, f"{front.url}/readyz") == 503
        assert await status(session, f"{front.url}/healthz") == 200
    began_s, spent_s = time.monotonic(), [cpu_s(process) for process in fleet]
    await asyncio.sleep(4)
    elapsed_s = time.monotonic() - began_s
    for process, before_s in zip(fleet, spent_s, strict=True):
        assert process.alive
        assert (cpu_s(process) - before_s) / elapsed_s < MOST_CPU
    await asyncio.to_thread(server.start)
    await reading
    client.check()
    assert all(process.alive for process in fleet)


async def test_processes_that_find_no_redis_at_their_start_wait_for_it(
    server: ValkeyServer, start: Starter, session: aiohttp.ClientSession
) -> None:
    await asyncio.to_thread(server.kill)
    front = start("orchestrator", wait=False)
    worker = start("llm_worker", wait=False, **DETERMINISTIC)
    await wait_until(lambda: "redis_unavailable" in front.log_tail())
    await asyncio.to_thread(server.start)
    await asyncio.to_thread(front.wait_ready)
    await asyncio.to_thread(worker.wait_ready)
    client = Client(session, front, "patience")
    await submit_and_read(client)
    client.check()


@pytest.mark.slow
@pytest.mark.realtime  # leases run out by the clock of a server that is frozen
async def test_frozen_redis_costs_time_and_nothing_else(
    server: ValkeyServer, start: Starter, session: aiohttp.ClientSession
) -> None:
    """Longer than leases, watchers' leases and the clients' timeouts. Connections stay open and say nothing."""
    short = {"LEASE_S": "5", "WATCH_LEASE_S": "5"}
    fleet = [start("orchestrator", **short) for _ in range(2)] + [
        start("llm_worker", **PACED, **short) for _ in range(2)
    ]
    clients = [Client(session, fleet[number % 2], f"request {number}") for number in range(12)]
    for client in clients:
        await client.submit()
    async with asyncio.TaskGroup() as group:
        for client in clients:
            group.create_task(client.read())
        await wait_until(lambda: all(len(client.events) > 10 for client in clients))
        os.kill(server.pid, signal.SIGSTOP)
        try:
            began_s, spent_s = time.monotonic(), [cpu_s(process) for process in fleet]
            # Many at once: each is told in time, and none keeps the others waiting.
            refused = [
                asyncio.create_task(refusal(session, fleet[number % 2])) for number in range(100)
            ]
            for front in fleet[:2]:
                assert await status(session, f"{front.url}/readyz") == 503
                assert await status(session, f"{front.url}/healthz") == 200
            assert set(await asyncio.gather(*refused)) == {503}
            await asyncio.sleep(max(0.0, 8 - (time.monotonic() - began_s)))
            elapsed_s = time.monotonic() - began_s
            for process, before_s in zip(fleet, spent_s, strict=True):
                assert (cpu_s(process) - before_s) / elapsed_s < MOST_CPU
            for process in fleet:
                connections = psutil.Process(process.pid).net_connections("tcp")
                assert (
                    sum(bool(one.raddr) and one.raddr.port == server.port for one in connections)
                    <= 70
                )
        finally:
            os.kill(server.pid, signal.SIGCONT)
        await answers_to_all(session, fleet[:2])
    for client in clients:
        client.check()
        assert client.connections == 1
        with Redis.from_url(server.url) as redis:
            assert client.channel_id is not None
            takes = redis.hget(keys.job(client.channel_id), "takes")
        assert takes == b"1", "a living worker lost its job"
    assert all(process.alive for process in fleet)


async def refusal(session: aiohttp.ClientSession, front: ServiceProcess) -> int:
    body = {"model": MODEL, "prompt": "b", "params": {"max_tokens": 1}}
    async with session.post(f"{front.url}/v1/requests", json=body) as response:
        return response.status
