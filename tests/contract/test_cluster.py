"""A Redis Cluster: every call goes to the node that has its key, also when that has just changed."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

import pytest
from redis import Redis
from redis.crc import key_slot
from redis.exceptions import ResponseError

from relais_common.jobs.errors import StoreUnavailable
from relais_common.queue import keys
from relais_common.queue.client.packing import MESSAGE_BYTES
from relais_common.queue.redis_store import RedisSettings, RedisStore, open_store
from relais_testing.builders import MODEL, make_job, token_line
from relais_testing.cluster import Cluster, ask
from relais_testing.ports import redis_ports
from relais_testing.steps import append, enqueue, finish, ids, take
from relais_testing.tcp_ports import HOST, free_port
from relais_testing.valkey import ValkeyServer
from relais_testing.waiting import block_until, wait_until

MODELS = [f"model-{number}" for number in range(12)]


def id_of(server: ValkeyServer) -> bytes:
    return bytes(ask(server, "MYID"))


def give(cluster: Cluster, slot: int, target: ValkeyServer) -> None:
    """Hand an empty slot over, and wait until all nodes say so."""
    with suppress(ResponseError):  # it has it
        # By this it outbids the one that had it, whose claim would else come back by gossip.
        ask(target, "SETSLOT", slot, "IMPORTING", id_of(owners(cluster, slot, target)[0]))
    for one in (target, *cluster.primaries):
        ask(one, "SETSLOT", slot, "NODE", id_of(target))
    block_until(
        lambda: {one.port for one in owners(cluster, slot, *cluster.primaries)} == {target.port}
    )


def owners(cluster: Cluster, slot: int, *asked: ValkeyServer) -> list[ValkeyServer]:
    """Who has the slot, as each of these says."""
    by_port = {one.port: one for one in cluster.primaries}
    found = []
    for one in asked:
        spans = ask(one, "SLOTS")
        found += [by_port[int(span[2][1])] for span in spans if span[0] <= slot <= span[1]]
    return found


@contextmanager
def on_its_way(moved: tuple[int, ValkeyServer, ValkeyServer]) -> Iterator[None]:
    """A slot is being moved, and then is not."""
    slot, source, target = moved
    ask(target, "SETSLOT", slot, "IMPORTING", id_of(source))
    ask(source, "SETSLOT", slot, "MIGRATING", id_of(target))
    try:
        yield
    finally:
        for one in (target, source):
            ask(one, "SETSLOT", slot, "STABLE")


@pytest.fixture
def moved(cluster: Cluster) -> Iterator[tuple[int, ValkeyServer, ValkeyServer]]:
    """The slot of a model, who has it, and another node; whatever a test does, it goes back."""
    base = keys.model_base(MODEL)
    source = cluster.primary_of(base)
    target = next(one for one in cluster.primaries if one is not source)
    slot = key_slot(base.encode())
    yield slot, source, target
    cluster.flush()
    give(cluster, slot, source)


async def test_models_lie_on_several_nodes_and_each_is_served(
    cluster: Cluster, cluster_store: RedisStore
) -> None:
    ports = redis_ports(cluster_store)
    assert len({cluster.primary_of(keys.model_base(model)).port for model in MODELS}) == 3
    jobs = [make_job(model=model) for model in MODELS]
    await enqueue(ports, *jobs)
    for job in jobs:
        (taken,) = await take(ports, model=job.model)
        assert taken.job == job
        await finish(ports, taken.lease, 2)
    depths = await asyncio.gather(*(ports.intake.depth(model) for model in MODELS))
    assert not any(depth.waiting or depth.running for depth in depths)


async def test_calls_follow_a_slot_that_has_moved(
    cluster: Cluster,
    cluster_store: RedisStore,
    moved: tuple[int, ValkeyServer, ValkeyServer],
) -> None:
    slot, _, target = moved
    ports = redis_ports(cluster_store)
    assert await take(ports) == []  # it is known who has it
    await ports.source.wait_for_work(MODEL, worker_id="any", timeout_s=0.05)
    cluster.flush()  # only a slot without keys can be given away in one step
    give(cluster, slot, target)

    job = make_job()
    await enqueue(ports, job)

    with Redis.from_url(target.url) as redis:
        assert redis.exists(keys.job(job.channel_id))
    assert ids(await take(ports)) == [job.channel_id]
    # Pops are not tried again by themselves: their callers do, and find the node at the second time.
    await enqueue(ports, make_job())
    while True:
        try:
            await ports.source.wait_for_work(MODEL, worker_id="any", timeout_s=5)
            break
        except StoreUnavailable:
            continue


async def test_jobs_go_along_with_a_slot_that_is_moved_in_one_step(
    cluster: Cluster,
    cluster_store: RedisStore,
    moved: tuple[int, ValkeyServer, ValkeyServer],
) -> None:
    """As Valkey moves them since its version 9."""
    slot, source, target = moved
    ports = redis_ports(cluster_store)
    running, waiting = make_job(), make_job()
    await enqueue(ports, running, waiting)
    (taken,) = await take(ports)
    await append(ports, taken.lease, 2, token_line())

    ask(source, "MIGRATESLOTS", "SLOTSRANGE", slot, slot, "NODE", id_of(target))

    async def arrived() -> bool:
        return bool(await asyncio.to_thread(ask, target, "COUNTKEYSINSLOT", slot))

    await wait_until(arrived)
    assert (await finish(ports, taken.lease, 3)).held
    assert ids(await take(ports)) == [waiting.channel_id]
    assert len(await ports.log.read(running.channel_id, after=0, limit=10)) == 3


async def test_calls_follow_a_slot_that_is_on_its_way(
    cluster_store: RedisStore, moved: tuple[int, ValkeyServer, ValkeyServer]
) -> None:
    ports = redis_ports(cluster_store)
    with on_its_way(moved):
        depth = await ports.intake.depth(MODEL)  # keys that the source has not, or not any more
    assert (depth.waiting, depth.running) == (0, 0)


async def test_large_calls_that_wait_for_each_other_follow_a_slot_that_is_on_its_way(
    cluster_store: RedisStore, moved: tuple[int, ValkeyServer, ValkeyServer]
) -> None:
    """A node refuses all but the call directly after `ASKING`."""
    names = [f"{keys.model_base(MODEL)}:large-{number}" for number in range(5)]
    with on_its_way(moved), Redis.from_url(moved[2].url) as target:
        target.config_resetstat()
        calls = (cluster_store.calls.send("SET", name, bytes(2 * MESSAGE_BYTES)) for name in names)
        assert await asyncio.gather(*calls) == [b"OK"] * 5
        assert not target.info("errorstats")


async def test_calls_under_way_when_it_is_closed_fail(cluster: Cluster) -> None:
    node = cluster.primary_of(keys.model_base(MODEL))
    with ExitStack() as stack:
        async with open_store(RedisSettings(cluster.url)) as store:
            await store.intake.depth(MODEL)
            os.kill(node.pid, signal.SIGSTOP)
            stack.callback(os.kill, node.pid, signal.SIGCONT)
            hangs = asyncio.create_task(store.intake.depth(MODEL))
            await asyncio.sleep(0.1)  # it is sent
        with pytest.raises(StoreUnavailable):
            await hangs


async def test_cluster_that_is_away_is_an_error_in_time() -> None:
    settings = RedisSettings(f"redis+cluster://{HOST}:{free_port()}", timeout_s=0.5)
    async with open_store(settings) as store:
        with pytest.raises(StoreUnavailable):
            await store.intake.depth(MODEL)
        with pytest.raises(StoreUnavailable):
            await store.source.wait_for_work(MODEL, worker_id="any", timeout_s=0.1)
        with pytest.raises(StoreUnavailable):
            await store.ping()


async def test_reaper_asks_the_clock_of_the_node_that_has_the_model(
    cluster: Cluster, cluster_store: RedisStore
) -> None:
    """Another node's may be off by more than a pass may be late, and nothing would be reaped."""
    home = cluster.primary_of(keys.model_base(MODEL))

    def asked(server: ValkeyServer) -> int:
        with Redis.from_url(server.url) as redis:
            stats = redis.info("commandstats")
        return int(stats.get("cmdstat_time", {"calls": 0})["calls"])

    before = {one.port: asked(one) for one in cluster.primaries}
    for _ in range(2 * len(cluster.primaries)):
        await cluster_store.recovery.reap(MODEL, max_failures=3, limit=1)
    after = {one.port: asked(one) for one in cluster.primaries}
    assert {port for port in after if after[port] > before[port]} == {home.port}
