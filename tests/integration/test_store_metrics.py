"""Durations and failures of every step of the protocol, over the real server."""

from __future__ import annotations

import pytest
from prometheus_client import CollectorRegistry

from relais_common.jobs.channels import new_channel_id
from relais_common.jobs.errors import StoreUnavailable
from relais_common.queue.redis_store import RedisSettings, RedisStore, open_store
from relais_common.runtime.metrics.store import STEPS, StoreMetrics
from relais_testing.builders import MODEL, make_job
from relais_testing.scrape import read
from relais_testing.tcp_ports import free_port


async def test_every_step_is_timed_by_its_name(redis_store: RedisStore) -> None:
    registry = CollectorRegistry()
    store = StoreMetrics(registry).around(redis_store)
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


async def test_what_is_reaped_is_counted(redis_store: RedisStore) -> None:
    registry = CollectorRegistry()
    store = StoreMetrics(registry).around(redis_store)
    await store.intake.enqueue(make_job(deadline_s=0.001), max_waiting=10)
    while not read(registry).of("relais_reaped_requests_total", outcome="ended"):
        await store.recovery.reap(MODEL, max_failures=3, limit=10)
    assert read(registry).of("relais_reaped_requests_total") == 1


async def test_waiting_for_work_is_no_latency_of_the_store(redis_store: RedisStore) -> None:
    registry = CollectorRegistry()
    store = StoreMetrics(registry).around(redis_store)
    await store.source.wait_for_work(MODEL, timeout_s=0.01)
    assert read(registry).of("relais_redis_step_duration_seconds_count") == 0


async def test_a_redis_that_is_away_is_an_error_of_the_step_that_met_it() -> None:
    registry = CollectorRegistry()
    async with open_store(RedisSettings(f"redis://127.0.0.1:{free_port()}")) as plain:
        store = StoreMetrics(registry).around(plain)
        with pytest.raises(StoreUnavailable):
            await store.log.read(new_channel_id(MODEL), after=0, limit=1)
    seen = read(registry)
    assert seen.of("relais_redis_errors_total", step="read") == 1
    assert seen.of("relais_redis_errors_total") == 1


def test_steps_are_the_ports_own() -> None:
    assert {"enqueue", "take", "append", "finish", "reap", "read", "beat", "queue"} <= set(STEPS)
