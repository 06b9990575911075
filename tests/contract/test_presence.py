"""A watcher that says nothing more may still have readers: as long as the store sees that it exists."""

from __future__ import annotations

import asyncio

import pytest
from redis.exceptions import ResponseError

from relais_common.jobs.errors import StoreUnavailable
from relais_common.jobs.job import Job, OnDisconnect, Status, StopReason
from relais_common.queue import keys
from relais_common.queue.client.clients import OneServer
from relais_common.queue.client.connection import connect
from relais_common.queue.events import presence as presence_module
from relais_common.queue.ports import Reaped
from relais_common.queue.redis_store import RedisSettings, RedisStore
from relais_testing.builders import MODEL, make_job
from relais_testing.owned import end_task
from relais_testing.ports import Ports
from relais_testing.steps import PAST_S, append, enqueue, reap, running
from relais_testing.waiting import wait_until


async def watched(ports: Ports, *watcher_ids: str) -> Job:
    """A job whose watchers have said nothing since their leases ran out."""
    job = make_job(on_disconnect=OnDisconnect.CANCEL)
    await enqueue(ports, job)
    for watcher_id in watcher_ids:
        await ports.intake.watch(job.channel_id, lease_s=PAST_S, watcher_id=watcher_id)
    return job


async def status_of(ports: Ports, job: Job) -> Status:
    state = await ports.intake.state(job.channel_id)
    assert state is not None
    return state.status


async def ended_once_gone(ports: Ports, job: Job) -> None:
    """Redis may hear of the end of a connection a moment after this process has closed it."""

    async def ended() -> bool:
        await ports.intake.watch(job.channel_id, lease_s=PAST_S)
        await reap(ports)
        return await status_of(ports, job) is Status.CANCELLED

    await wait_until(ended)


async def test_job_of_a_watcher_that_only_stalls_is_left_alone_until_that_one_is_gone(
    ports: Ports,
) -> None:
    async with ports.presence.present(MODEL, "o1"):
        job = await watched(ports, "o1")
        assert await reap(ports) == Reaped(0, 0)
        assert await status_of(ports, job) is Status.QUEUED
        await ports.intake.watch(job.channel_id, lease_s=PAST_S, watcher_id="o1")
        assert await reap(ports) == Reaped(0, 0)
    await ended_once_gone(ports, job)


async def test_running_job_of_a_watcher_that_only_stalls_is_not_asked_to_stop(ports: Ports) -> None:
    async with ports.presence.present(MODEL, "o1"):
        taken = await running(ports, make_job(on_disconnect=OnDisconnect.CANCEL))
        await ports.intake.watch(taken.job.channel_id, lease_s=PAST_S, watcher_id="o1")
        await reap(ports)
        assert (await append(ports, taken.lease, 2)).stop is None
    # Its lease alone counts again.
    await ports.intake.watch(taken.job.channel_id, lease_s=PAST_S)

    async def asked_to_stop() -> bool:
        await ports.intake.watch(taken.job.channel_id, lease_s=PAST_S)
        await reap(ports)
        return (await append(ports, taken.lease, 3)).stop is StopReason.DISCONNECT

    await wait_until(asked_to_stop)


async def test_watcher_counts_from_the_acceptance_on(ports: Ports) -> None:
    job = make_job(on_disconnect=OnDisconnect.CANCEL)
    await ports.intake.enqueue(job, max_waiting=9, watcher_id="o1")
    async with ports.presence.present(MODEL, "o1"):
        await ports.intake.watch(job.channel_id, lease_s=PAST_S)
        assert await reap(ports) == Reaped(0, 0)


@pytest.mark.parametrize("present", ["o1", "o2"])
async def test_any_of_its_watchers_will_do(ports: Ports, present: str) -> None:
    async with ports.presence.present(MODEL, present):
        await watched(ports, "o1", "o2", "o3")
        assert await reap(ports) == Reaped(0, 0)


async def test_job_whose_reader_has_left_ends_though_its_watcher_is_present(ports: Ports) -> None:
    async with ports.presence.present(MODEL, "o1"):
        left, read = await watched(ports, "o1"), await watched(ports, "o1", "o2")
        await ports.intake.unwatch([left.channel_id, read.channel_id], watcher_id="o2")
        assert await reap(ports) == Reaped(0, 0)
        await ports.intake.watch(left.channel_id, lease_s=PAST_S)
        await ports.intake.unwatch([left.channel_id], watcher_id="o1")
        assert await reap(ports) == Reaped(requeued=0, ended=1)
        assert await status_of(ports, left) is Status.CANCELLED
        assert await status_of(ports, read) is Status.QUEUED


async def test_watcher_that_is_present_elsewhere_counts_for_nothing(ports: Ports) -> None:
    async with (
        ports.presence.present("other/model", "o1"),
        ports.presence.present(MODEL, "o2"),
    ):
        await watched(ports, "o1")
        assert await reap(ports) == Reaped(requeued=0, ended=1)


async def test_leaving_an_unknown_or_ended_channel_does_nothing(ports: Ports) -> None:
    job = await watched(ports, "o1")
    await reap(ports)
    await ports.intake.unwatch([job.channel_id, make_job().channel_id], watcher_id="o1")
    assert await status_of(ports, job) is Status.CANCELLED


async def test_watcher_hears_that_its_connection_is_gone(redis_store: RedisStore) -> None:
    async with redis_store.presence.present(MODEL, "o1") as lost:
        waiting = asyncio.ensure_future(lost())
        await redis_store.calls.send("CLIENT", "KILL", "TYPE", "pubsub")
        with pytest.raises(StoreUnavailable):
            await waiting


async def test_watcher_hears_that_another_node_has_the_model_now(
    redis_store: RedisStore, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(presence_module, "CHECK_S", 0.05)
    async with (
        connect(RedisSettings(redis_url)) as other,
        redis_store.presence.present(MODEL, "o1") as lost,
    ):
        monkeypatch.setattr(redis_store.presence, "_clients", OneServer(other))
        with pytest.raises(StoreUnavailable, match="another node"):
            await lost()


async def test_watcher_that_may_not_subscribe_is_told(redis_store: RedisStore) -> None:
    send = redis_store.calls.send
    await send("ACL", "SETUSER", "default", "resetchannels")
    try:
        with pytest.raises(ResponseError, match="permission"):
            async with redis_store.presence.present(MODEL, "o1"):
                pass
    finally:
        await send("ACL", "SETUSER", "default", "allchannels")


async def test_presence_of_a_connection_that_answers_stays(
    redis_store: RedisStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(presence_module, "CHECK_S", 1.0)
    name = keys.presence(MODEL, "o1")

    async def asked() -> int:
        stats = await redis_store.redis.info("commandstats")
        return int(stats.get("cmdstat_ping", {"calls": 0})["calls"])

    before = await asked()
    async with redis_store.presence.present(MODEL, "o1") as lost:
        waiting = asyncio.ensure_future(lost())

        async def asked_thrice() -> bool:
            return await asked() >= before + 3

        await wait_until(asked_thrice)
        assert not waiting.done()
        assert await redis_store.redis.pubsub_numsub(name) == [(name.encode(), 1)]
        await end_task(waiting)
