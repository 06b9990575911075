"""Durations and failures of every step of the protocol, over the real server."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from prometheus_client import CollectorRegistry

from relais_common.jobs.channels import new_channel_id
from relais_common.jobs.errors import StoreUnavailable
from relais_common.jobs.inspection import ChannelFilter
from relais_common.jobs.job import Lease, StopReason, WorkerState
from relais_common.queue.metrics import STEPS, StoreMetrics
from relais_common.queue.redis_store import RedisSettings, RedisStore, open_store
from relais_testing.builders import COMPLETED, MODEL, make_job
from relais_testing.ports import redis_ports
from relais_testing.scrape import read
from relais_testing.steps import append, finish, start, take
from relais_testing.tcp_ports import free_port


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
async def store(redis_url: str, registry: CollectorRegistry) -> AsyncIterator[RedisStore]:
    """Every port over the real server, timed."""
    async with open_store(RedisSettings(redis_url), metrics=StoreMetrics(registry)) as store:
        yield store


async def test_every_step_is_timed_by_its_name(
    store: RedisStore, registry: CollectorRegistry
) -> None:
    await store.intake.enqueue(make_job(), max_waiting=10)
    await store.recovery.reap(MODEL, max_failures=3, limit=10)
    await store.registry.alive()
    await store.ping()
    seen = read(registry)
    assert {
        sample.labels["step"] for sample in seen.samples if sample.name.endswith("seconds_count")
    } == {"enqueue", "reap", "alive"}
    assert seen.of("relais_redis_step_duration_seconds_count", step="enqueue") == 1
    assert seen.of("relais_redis_errors_total") == 0
    assert seen.of("relais_reaped_requests_total", outcome="ended") == 0


async def test_each_method_of_a_port_is_one_observation_of_its_own_step(
    store: RedisStore, registry: CollectorRegistry
) -> None:
    ports, channel_id = redis_ports(store), make_job().channel_id
    lease = Lease(channel_id, 1)
    await store.intake.enqueue(make_job(), max_waiting=10)
    await store.intake.cancel(channel_id, StopReason.CLIENT)
    await store.intake.watch(channel_id, lease_s=1)
    await store.intake.unwatch([channel_id], watcher_id="w")
    await store.intake.state(channel_id)
    await store.intake.vectors(channel_id)
    await store.intake.record(channel_id)
    await store.intake.depth(MODEL)
    await take(ports)
    await start(ports, lease)
    await append(ports, lease, 1)
    await finish(ports, lease, 1, COMPLETED)
    await store.source.renew([lease], lease_s=1)
    await store.source.release([lease])
    await store.recovery.reap(MODEL, max_failures=3, limit=10)
    await store.log.read(channel_id, after=0, limit=1)
    await store.log.look(channel_id, after=0, limit=1)
    await store.registry.beat(WorkerState("w", MODEL, 1, 0), ttl_s=1)
    await store.registry.leave("w")
    await store.registry.alive()
    await store.inspector.queue(MODEL, top_keys=1)
    await store.inspector.channels(MODEL, which=ChannelFilter.QUEUED, limit=1)
    await store.inspector.dead_letters(MODEL, limit=1)
    await store.inspector.dead_letter(channel_id)
    await store.inspector.replay(channel_id, new_channel_id=new_channel_id(MODEL), max_waiting=10)
    await store.inspector.drop(channel_id)
    await store.intake.forget(channel_id)
    await store.intake.knows(MODEL, "a-key", "a-hash")
    await store.registry.note_shards(MODEL, 2)
    await store.registry.shards(MODEL)
    await store.traces.collect(MODEL, writer="w", limit=1, claim_after_s=1)
    await store.traces.written(MODEL, ["1-1"])
    await store.traces.set_aside(MODEL, ["1-1"])
    counts = {
        sample.labels["step"]: sample.value
        for sample in read(registry).samples
        if sample.name.endswith("seconds_count")
    }
    assert counts == dict.fromkeys(set(STEPS) - {"wait_for_work"}, 1)


async def test_what_is_reaped_is_counted(store: RedisStore, registry: CollectorRegistry) -> None:
    await store.intake.enqueue(make_job(deadline_s=0.001), max_waiting=10)
    while not read(registry).of("relais_reaped_requests_total", outcome="ended"):
        await store.recovery.reap(MODEL, max_failures=3, limit=10)
    assert read(registry).of("relais_reaped_requests_total") == 1


async def test_waiting_for_work_is_no_latency_of_the_store(
    store: RedisStore, registry: CollectorRegistry
) -> None:
    await store.source.wait_for_work(MODEL, worker_id="any", timeout_s=0.01)
    assert read(registry).of("relais_redis_step_duration_seconds_count") == 0


async def test_a_redis_that_is_away_is_an_error_of_the_step_that_met_it(
    registry: CollectorRegistry,
) -> None:
    settings = RedisSettings(f"redis://127.0.0.1:{free_port()}")
    async with open_store(settings, metrics=StoreMetrics(registry)) as store:
        for step in (
            store.log.read(new_channel_id(MODEL), after=0, limit=1),
            store.recovery.reap(MODEL, max_failures=3, limit=10),
            store.source.wait_for_work(MODEL, worker_id="any", timeout_s=0.01),
        ):
            with pytest.raises(StoreUnavailable):
                await step
    seen = read(registry)
    assert seen.of("relais_redis_errors_total", step="read") == 1
    assert seen.of("relais_redis_errors_total", step="reap") == 1
    assert seen.of("relais_redis_errors_total", step="wait_for_work") == 1
    assert seen.of("relais_redis_errors_total") == 3


def test_steps_are_the_ports_own() -> None:
    assert {"enqueue", "take", "append", "finish", "reap", "read", "beat", "queue"} <= set(STEPS)
