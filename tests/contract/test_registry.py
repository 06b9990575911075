"""Which workers are alive."""

from __future__ import annotations

from dataclasses import replace

from relais_common.jobs.job import WorkerState
from relais_testing.builders import MODEL
from relais_testing.ports import Ports
from relais_testing.waiting import wait_until

STATE = WorkerState(
    "w1", MODEL, capacity=8, running=3, max_model_len=4096, kv_cache_usage=0.25, parent="base"
)


async def test_nobody_is_alive_at_first(ports: Ports) -> None:
    assert await ports.registry.alive() == []


async def test_worker_that_beats_is_alive_with_what_it_said_last(ports: Ports) -> None:
    await ports.registry.beat(STATE, ttl_s=60)
    last = replace(STATE, running=0, draining=True)
    await ports.registry.beat(last, ttl_s=60)
    assert await ports.registry.alive() == [last]


async def test_workers_of_all_models_are_listed(ports: Ports) -> None:
    states = [STATE, WorkerState("w:2 é", "other/model", capacity=1, running=0)]
    for state in states:
        await ports.registry.beat(state, ttl_s=60)
    assert sorted(await ports.registry.alive(), key=lambda one: one.worker_id) == sorted(
        states, key=lambda one: one.worker_id
    )


async def test_worker_that_leaves_is_gone(ports: Ports) -> None:
    await ports.registry.beat(STATE, ttl_s=60)
    await ports.registry.leave(STATE.worker_id)
    await ports.registry.leave("never-seen")
    assert await ports.registry.alive() == []


async def test_worker_that_stops_beating_is_gone_after_its_time(ports: Ports) -> None:
    await ports.registry.beat(STATE, ttl_s=0.05)

    async def nobody() -> bool:
        return not await ports.registry.alive()

    await wait_until(nobody)


async def test_worker_that_comes_back_is_alive_again(ports: Ports) -> None:
    await ports.registry.beat(STATE, ttl_s=60)
    await ports.registry.leave(STATE.worker_id)
    await ports.registry.beat(STATE, ttl_s=60)
    assert await ports.registry.alive() == [STATE]
