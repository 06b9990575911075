"""Redis dies, stalls, fills up and comes back."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, suppress
from functools import partial
from types import SimpleNamespace

import pytest
import uvloop
from structlog.testing import capture_logs

from relais_common.jobs.channels import new_channel_id
from relais_common.jobs.errors import StoreUnavailable
from relais_common.jobs.job import Job, OnDisconnect, Status, StopReason, Verdict
from relais_common.queue import keys
from relais_common.queue.client.connection import connect, store_errors
from relais_common.queue.client.link import Link, links
from relais_common.queue.client.packing import pack
from relais_common.queue.events import live_bus as live
from relais_common.queue.ports import LiveBatch
from relais_common.queue.recovery import redis_recovery as recovery
from relais_common.queue.redis_store import RedisSettings, RedisStore, open_store
from relais_common.runtime.lifecycle import background
from relais_testing.builders import MODEL, make_job, token_line
from relais_testing.ports import redis_ports
from relais_testing.steps import (
    append,
    crash,
    enqueue,
    finish,
    ids,
    read_all,
    reap,
    running,
    start,
    take,
)
from relais_testing.valkey import ValkeyServer
from relais_testing.waiting import LIVENESS_S, returns_at_once, wait_until


@pytest.fixture
def durable_server(make_redis_server: Callable[..., ValkeyServer]) -> ValkeyServer:
    return make_redis_server(appendonly=True)


@pytest.fixture
async def durable_store(durable_server: ValkeyServer) -> AsyncIterator[RedisStore]:
    # A server that is killed is known to be away at once; no command waits until its time is over.
    async with open_store(RedisSettings(durable_server.url, timeout_s=LIVENESS_S)) as store:
        yield store


async def test_accepted_jobs_survive_a_kill_of_redis(
    durable_server: ValkeyServer, durable_store: RedisStore
) -> None:
    ports = redis_ports(durable_store)
    jobs = [make_job() for _ in range(20)]
    await enqueue(ports, *jobs)
    taken = await take(ports, 5)
    await start(ports, taken[0].lease)
    await append(ports, taken[0].lease, 3, token_line("a"))
    before = await read_all(ports, taken[0].job.channel_id)
    await asyncio.to_thread(durable_server.restart)
    assert await read_all(ports, taken[0].job.channel_id) == before
    assert await append(ports, taken[0].lease, 4, token_line("b")) == Verdict(held=True, tail=4)
    assert (await finish(ports, taken[0].lease, 5)).held
    assert ids(await take(ports, 100)) == ids(jobs[5:])


async def test_scripts_work_on_a_server_that_never_saw_them(
    make_redis_server: Callable[..., ValkeyServer],
) -> None:
    server = make_redis_server()
    async with open_store(RedisSettings(server.url)) as store:
        ports = redis_ports(store)
        await enqueue(ports, make_job())
        await asyncio.to_thread(server.restart)
        assert await take(ports) == []  # nothing was persisted, and nothing is broken
        await enqueue(ports, make_job())
        assert len(await take(ports)) == 1


async def test_commands_say_at_once_that_redis_is_away_and_work_after(
    durable_server: ValkeyServer, durable_store: RedisStore
) -> None:
    ports = redis_ports(durable_store)
    taken = await running(ports)
    job, lease, channel_id = make_job(), taken.lease, taken.job.channel_id
    await asyncio.to_thread(durable_server.kill)
    asking = asyncio.gather(
        enqueue(ports, job),
        ports.intake.cancel(channel_id, StopReason.CLIENT),
        ports.intake.watch(channel_id, lease_s=5),
        ports.intake.state(channel_id),
        ports.intake.depth(MODEL),
        take(ports),
        start(ports, lease),
        append(ports, lease, 2),
        finish(ports, lease, 2),
        ports.source.renew([lease], lease_s=5),
        ports.source.release([lease]),
        ports.source.wait_for_work(MODEL, worker_id="any", timeout_s=LIVENESS_S),
        ports.recovery.reap(MODEL, max_failures=1, limit=1),
        ports.log.read(channel_id, after=0, limit=1),
        ports.log.look(channel_id, after=0, limit=1),
        ports.registry.alive(),
        durable_store.ping(),
        durable_store.signing_secret(),
        return_exceptions=True,
    )
    assert await returns_at_once(asking)
    answers = asking.result()
    assert [type(answer) for answer in answers] == [StoreUnavailable] * len(answers)
    assert all(
        isinstance(answer, StoreUnavailable) and answer.status == 503 and answer.retry_after_s
        for answer in answers
    )
    await asyncio.to_thread(durable_server.start)
    assert ids(await take(ports)) == []
    await enqueue(ports, job)
    assert (await append(ports, lease, 2)).tail == 2


async def test_command_in_flight_during_a_short_restart_is_tried_again(
    durable_server: ValkeyServer, durable_store: RedisStore
) -> None:
    ports = redis_ports(durable_store)
    jobs = [make_job() for _ in range(40)]

    async def accept() -> None:
        for job in jobs:

            async def accepted(job=job) -> bool:  # type: ignore[no-untyped-def]
                try:
                    await enqueue(ports, job)
                except StoreUnavailable:
                    return False
                return True

            await wait_until(accepted)

    async with asyncio.TaskGroup() as group:
        group.create_task(accept())
        for _ in range(2):
            await asyncio.to_thread(durable_server.restart)
    assert ids(await take(ports, 100)) == ids(jobs)
    assert (await ports.intake.depth(MODEL)).waiting == 0


async def test_subscriptions_come_back_by_themselves_and_tell_of_the_gap_once(
    durable_server: ValkeyServer, durable_store: RedisStore
) -> None:
    ports = redis_ports(durable_store)
    taken = await running(ports)
    channel_id = taken.job.channel_id
    async with AsyncExitStack() as stack:
        readers = [
            await stack.enter_async_context(ports.live.subscribe(one))
            for one in (channel_id, channel_id, new_channel_id(MODEL))
        ]
        await append(ports, taken.lease, 2, token_line("a"))
        assert await readers[0].next(LIVENESS_S) == LiveBatch(2, [token_line("a")])
        assert await readers[1].next(LIVENESS_S) == LiveBatch(2, [token_line("a")])

        await asyncio.to_thread(durable_server.restart)
        for reader in readers:  # told, not timed out
            assert await returns_at_once(reader.next(LIVENESS_S))

        name = keys.live(channel_id)

        async def subscribed() -> bool:
            return dict(await durable_store.redis.pubsub_numsub(name))[name.encode()] == 1

        await wait_until(subscribed)
        await append(ports, taken.lease, 3, token_line("b"))
        assert await readers[0].next(LIVENESS_S) == LiveBatch(3, [token_line("b")])
        assert await readers[1].next(LIVENESS_S) == LiveBatch(3, [token_line("b")])


async def test_notice_of_a_gap_comes_only_once_new_messages_are_heard_again(
    durable_server: ValkeyServer, durable_store: RedisStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Told at the loss, a reader would read the log too early: what came between would go unheard."""
    ports = redis_ports(durable_store)
    taken = await running(ports)
    make = durable_store.live._make_link
    may_connect = asyncio.Event()

    def make_link() -> Link:
        link = make()
        connect = link.connect

        async def connect_later() -> None:
            await may_connect.wait()
            await connect()  # type: ignore[no-untyped-call]

        monkeypatch.setattr(link, "connect", connect_later)
        return link

    async with ports.live.subscribe(taken.job.channel_id) as reader:
        monkeypatch.setattr(durable_store.live, "_make_link", make_link)
        await asyncio.to_thread(durable_server.restart)
        assert await reader.next(0.5) is None  # nothing to say yet
        await append(ports, taken.lease, 2)
        telling = asyncio.create_task(reader.next(LIVENESS_S))
        await asyncio.sleep(0.1)
        assert not telling.done()
        may_connect.set()
        assert await telling is None


async def test_new_subscription_works_after_a_restart(
    durable_server: ValkeyServer, durable_store: RedisStore
) -> None:
    ports = redis_ports(durable_store)
    taken = await running(ports)
    async with ports.live.subscribe(taken.job.channel_id):
        pass
    await asyncio.to_thread(durable_server.restart)

    async def subscribes() -> bool:
        try:
            async with ports.live.subscribe(taken.job.channel_id) as reader:
                # Another event at each try: one that the log has is not published again.
                seq = len(await read_all(ports, taken.job.channel_id)) + 1
                await append(ports, taken.lease, seq)
                return await reader.next(LIVENESS_S) == LiveBatch(seq, [token_line()])
        except StoreUnavailable:
            return False

    await wait_until(subscribes)


async def test_subscribing_while_redis_is_away_says_so(
    durable_server: ValkeyServer, durable_store: RedisStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "CONFIRM_TIMEOUT_S", 0.5)
    ports = redis_ports(durable_store)
    await asyncio.to_thread(durable_server.kill)
    with pytest.raises(StoreUnavailable):
        async with ports.live.subscribe(new_channel_id(MODEL)):
            pass


async def test_stop_requests_say_that_redis_went_away(
    durable_server: ValkeyServer, durable_store: RedisStore
) -> None:
    ports = redis_ports(durable_store)
    async with ports.source.stop_requests(MODEL) as requests:
        listener = asyncio.ensure_future(anext(requests))
        await asyncio.to_thread(durable_server.kill)
        with pytest.raises(StoreUnavailable):
            await listener


async def test_blocked_wait_says_that_redis_went_away(
    durable_server: ValkeyServer, durable_store: RedisStore
) -> None:
    ports = redis_ports(durable_store)
    waiting = asyncio.create_task(
        ports.source.wait_for_work(MODEL, worker_id="any", timeout_s=LIVENESS_S)
    )

    async def blocked() -> bool:
        info = await durable_store.redis.info("clients")
        return bool(info["blocked_clients"] == 1)

    await wait_until(blocked)
    await asyncio.to_thread(durable_server.kill)
    with pytest.raises(StoreUnavailable):
        await waiting


async def test_cancelled_wait_gives_its_connection_back_clean(redis_store: RedisStore) -> None:
    ports = redis_ports(redis_store)

    async def blocked() -> int:
        info = await redis_store.redis.info("clients")
        return int(info["blocked_clients"])

    async def nobody_blocked() -> bool:
        return await blocked() == 0

    for _ in range(5):
        waiting = asyncio.create_task(
            ports.source.wait_for_work(MODEL, worker_id="any", timeout_s=LIVENESS_S)
        )
        await wait_until(blocked)
        waiting.cancel()
        await asyncio.wait({waiting})
        await wait_until(nobody_blocked)
    # A ring now is for the next who waits, not for those who gave up.
    await enqueue(ports, make_job())
    assert await returns_at_once(
        ports.source.wait_for_work(MODEL, worker_id="any", timeout_s=LIVENESS_S)
    )


async def test_redis_that_stalls_is_unavailable_and_loses_nothing(
    make_redis_server: Callable[..., ValkeyServer],
) -> None:
    server = make_redis_server()
    async with open_store(RedisSettings(server.url, timeout_s=0.5)) as store:
        ports = redis_ports(store)
        job = make_job()
        await store.ping()
        os.kill(server.pid, signal.SIGSTOP)
        try:
            with pytest.raises(StoreUnavailable):
                await ports.intake.enqueue(job, max_waiting=10)
        finally:
            os.kill(server.pid, signal.SIGCONT)

        async def accepted() -> bool:
            with suppress(StoreUnavailable):
                await ports.intake.enqueue(job, max_waiting=10)
                return True
            return False

        # It may have been accepted behind our back; sent again, it is there once.
        await wait_until(accepted)
    async with open_store(RedisSettings(server.url, timeout_s=LIVENESS_S)) as store:
        assert ids(await take(redis_ports(store), 5)) == [job.channel_id]


@pytest.mark.realtime  # leases run out by the clock of a server that is frozen
async def test_reaping_that_reaches_a_frozen_redis_late_takes_nothing_from_the_living(
    make_redis_server: Callable[..., ValkeyServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A frozen server carries out what piled up in its sockets before anybody living can renew."""
    monkeypatch.setattr(recovery, "LATEST_S", 2.0)
    server = make_redis_server()
    async with open_store(RedisSettings(server.url, timeout_s=0.5)) as store:
        ports = redis_ports(store)
        await reap(ports)  # or the server would not know the script
        taken = await running(ports)
        watched = await running(ports, make_job(on_disconnect=OnDisconnect.CANCEL))
        await ports.source.renew([taken.lease, watched.lease], lease_s=1.0)
        await ports.intake.watch(watched.job.channel_id, lease_s=1.0)
        os.kill(server.pid, signal.SIGSTOP)
        try:
            with pytest.raises(StoreUnavailable):
                await ports.recovery.reap(MODEL, max_failures=3, limit=100)
            await asyncio.sleep(recovery.LATEST_S)
        finally:
            os.kill(server.pid, signal.SIGCONT)
        leases = [taken.lease, watched.lease]
        verdicts = await ports.source.renew(leases, lease_s=60)
        assert verdicts == [Verdict(held=True, tail=1)] * 2


@pytest.mark.parametrize("late", ["the clock's answer", "the step"])
async def test_reaping_that_took_too_long_is_not_done(
    redis_store: RedisStore, monkeypatch: pytest.MonkeyPatch, late: str
) -> None:
    ports = redis_ports(redis_store)
    taken = await running(ports)
    await ports.source.renew([taken.lease], lease_s=-1.0)
    seconds = itertools.count() if late == "the clock's answer" else itertools.repeat(0)
    clock = SimpleNamespace(monotonic=lambda: float(next(seconds)), time=time.time)
    monkeypatch.setattr(recovery, "time", clock)
    monkeypatch.setattr(recovery, "LATEST_S", 0.0)
    with pytest.raises(StoreUnavailable, match=recovery.STOOD_STILL):
        await reap(ports)
    assert (await ports.intake.depth(MODEL)).running == 1


async def test_clocks_that_differ_are_reported_once_and_reaping_goes_on(
    redis_store: RedisStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    ports = redis_ports(redis_store)
    reported = []
    with capture_logs() as logs:
        for ahead_s in (0.0, -60.0, -60.0, 1.0, 60.0):
            wall_s = partial(lambda by: time.time() + by, ahead_s)
            clock = SimpleNamespace(monotonic=time.monotonic, time=wall_s)
            monkeypatch.setattr(recovery, "time", clock)
            taken = await running(ports)
            await crash(ports, taken.lease, max_failures=9)
            assert (await take(ports, worker_id="another", idle=True))[0].job == taken.job
            await redis_store.redis.flushdb()
            reported.append(
                [one["redis_ahead_s"] for one in logs if one["event"] == "clocks_differ"]
            )
    assert [len(one) for one in reported] == [0, 1, 1, 1, 2]
    assert [round(one, -1) for one in reported[-1]] == [60, -60]


async def test_full_redis_refuses_and_keeps_what_it_has(
    make_redis_server: Callable[..., ValkeyServer],
) -> None:
    server = make_redis_server(options={"maxmemory": "5mb"})
    async with open_store(RedisSettings(server.url)) as store:
        ports = redis_ports(store)
        accepted: list[Job] = []

        async def fill() -> None:
            for _ in range(1000):
                job = make_job(prompt="x" * 100_000)
                await enqueue(ports, job)
                accepted.append(job)

        with pytest.raises(StoreUnavailable):
            await fill()
        assert accepted
        assert (await ports.intake.depth(MODEL)).waiting == len(accepted)
        state = await ports.intake.state(accepted[0].channel_id)
        assert state is not None
        assert state.status is Status.QUEUED


async def test_wrong_password_is_unavailable_not_a_crash(
    make_redis_server: Callable[..., ValkeyServer],
) -> None:
    server = make_redis_server(options={"requirepass": "secret"})
    url = server.url.replace("redis://", "redis://:wrong@")
    async with open_store(RedisSettings(url)) as store:
        with pytest.raises(StoreUnavailable) as refused:
            await store.ping()
    assert "wrong" not in str(refused.value)
    async with open_store(RedisSettings(server.url.replace("//", "//:secret@"))) as store:
        await store.ping()


async def test_live_message_that_cannot_be_read_disturbs_no_reader(
    redis_store: RedisStore,
) -> None:
    job = make_job()
    async with redis_store.live.subscribe(job.channel_id) as subscription:
        with capture_logs() as logs:
            await redis_store.redis.publish(keys.live(job.channel_id), b"\xff")
            await redis_store.intake.enqueue(job, max_waiting=10)
            batch = await subscription.next(LIVENESS_S)
    assert batch is not None
    assert batch.first_seq == 1
    assert [one["event"] for one in logs] == ["live_message_unreadable"]


async def test_connection_without_readers_is_kept_and_used_again(
    redis_store: RedisStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "SILENCE_S", 0.05)

    async def pings() -> int:
        stats = await redis_store.redis.info("commandstats")
        return int(stats.get("cmdstat_ping", {"calls": 0})["calls"])

    async with redis_store.live.subscribe(make_job().channel_id):
        pass
    before = await pings()

    async def asked_twice() -> bool:
        return await pings() >= before + 2

    await wait_until(asked_twice)
    job = make_job()
    async with redis_store.live.subscribe(job.channel_id) as subscription:
        await redis_store.intake.enqueue(job, max_waiting=10)
        assert await subscription.next(LIVENESS_S) is not None


async def test_readers_that_come_and_go_in_silence_do_not_disturb_the_subscription(
    redis_store: RedisStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client's own health checks would read the connection beside its reader, and kill it."""
    monkeypatch.setattr("relais_common.queue.events.live_bus.SILENCE_S", 0.02)
    job = make_job()
    async with redis_store.live.subscribe(job.channel_id) as subscription:
        for _ in range(30):
            async with redis_store.live.subscribe(make_job().channel_id):
                assert await subscription.next(0.01) is None
        await redis_store.intake.enqueue(job, max_waiting=10)
        batch = await subscription.next(LIVENESS_S)
    assert batch is not None
    assert batch.first_seq == 1


async def test_pings_go_between_the_commands_that_subscribe_to_many_channels(
    redis_url: str,
) -> None:
    """After a failover an orchestrator subscribes again to whatever it has readers for."""
    link = links(redis_url)()
    bus = live.RedisLiveBus(lambda: link)
    channels = [f"channel:{number:0200}" for number in range(3000)]
    joined = [asyncio.create_task(bus.join(channel)) for channel in channels]
    await asyncio.sleep(0)  # all have asked
    send, pinged = link.send_packed_command, 0

    async def send_and_ping(message: bytes, check_health: bool = True) -> None:
        nonlocal pinged
        await send(message, check_health)
        if b"channel:" in message:
            await send(pack(["PING"])[0], check_health)
            pinged += 1

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(link, "send_packed_command", send_and_ping)
        async with background(bus.run()):
            await asyncio.gather(*joined)
    assert pinged > 1


def test_sending_on_a_connection_that_has_just_been_closed_is_an_outage_on_uvloop_too(
    redis_url: str,
) -> None:
    async def scenario() -> None:
        redis = connect(RedisSettings(redis_url))
        connection = redis.connection_pool.make_connection()  # type: ignore[no-untyped-call]
        await connection.connect()
        # As when Redis dies between the two: no reader has seen it yet.
        connection._writer.transport.abort()
        with pytest.raises(StoreUnavailable), store_errors():
            await connection.send_command("PING")
        await redis.aclose()

    uvloop.run(scenario())


async def test_channels_that_nobody_reads_any_more_leave_nothing_behind(
    redis_store: RedisStore,
) -> None:
    bus, channels = redis_store.live, [new_channel_id(MODEL) for _ in range(5)]

    def traces() -> list[str]:
        return [
            name
            for name, value in vars(bus).items()
            if isinstance(value, dict | set) and any(keys.live(one) in value for one in channels)
        ]

    for channel_id in channels:
        async with bus.subscribe(channel_id):
            assert traces()
    await wait_until(lambda: not traces())
