"""Live events: hints that are ordered and numbered, and a log that has whatever was missed."""

from __future__ import annotations

import asyncio

from relais_common.jobs.channels import new_channel_id
from relais_common.jobs.job import Append, Job, StopReason
from relais_common.queue import codec
from relais_common.queue.ports import LiveBatch, Subscription
from relais_testing.builders import MODEL, make_job, token_line
from relais_testing.ports import Ports
from relais_testing.steps import append, enqueue, finish, read_all, running, start, take
from relais_testing.waiting import LIVENESS_S


async def next_after(subscription: Subscription, seq: int) -> LiveBatch | None:
    """The next batch behind an event. In a cluster, what was published before somebody subscribed may still come."""
    while True:
        batch = await subscription.next(LIVENESS_S)
        if batch is None or batch.first_seq > seq:
            return batch
        if rest := batch.lines[seq + 1 - batch.first_seq :]:
            return LiveBatch(seq + 1, rest)


async def follow(ports: Ports, channel_id: str, subscription: Subscription) -> list[bytes]:
    """What an orchestrator does: log first, then live, and the log again at every gap."""
    lines: list[bytes] = []

    async def catch_up() -> None:
        while more := await ports.log.read(channel_id, after=len(lines), limit=100):
            lines.extend(more)

    await catch_up()
    while not lines or codec.split_event(lines[-1])[0] not in codec.TERMINAL_NAMES:
        batch = await subscription.next(1.0)
        if batch is None or batch.first_seq > len(lines) + 1:
            await catch_up()
        else:
            lines += batch.lines[len(lines) + 1 - batch.first_seq :]
    return lines


async def test_quiet_channel_gives_none_at_the_timeout(ports: Ports) -> None:
    async with ports.live.subscribe(new_channel_id(MODEL)) as subscription:
        assert await subscription.next(0.02) is None


async def test_events_after_subscription_arrive_in_order_with_their_numbers(ports: Ports) -> None:
    taken = await running(ports)
    async with ports.live.subscribe(taken.job.channel_id) as subscription:
        await start(ports, taken.lease)
        batches = [await next_after(subscription, 1)]
        await append(ports, taken.lease, 3, token_line("a"), token_line("b"))
        batches.append(await next_after(subscription, 2))
        await append(ports, taken.lease, 4, token_line("b"), token_line("c"))
        batches.append(await next_after(subscription, 4))
        await finish(ports, taken.lease, 6)
        batches.append(await next_after(subscription, 5))
    log = await read_all(ports, taken.job.channel_id)
    assert batches == [
        LiveBatch(2, log[1:2]),
        LiveBatch(3, log[2:4]),
        LiveBatch(5, log[4:5]),
        LiveBatch(6, log[5:6]),
    ]


async def test_events_that_a_late_reader_left_lying_come_in_one_piece(ports: Ports) -> None:
    taken = await running(ports)
    channel_id = taken.job.channel_id
    async with (
        ports.live.subscribe(channel_id) as prompt,
        ports.live.subscribe(channel_id) as late,
    ):
        await start(ports, taken.lease)
        assert await next_after(prompt, 1) == await next_after(late, 1)
        await append(ports, taken.lease, 3, token_line("a"), token_line("b"))
        await append(ports, taken.lease, 5, token_line("c"))
        await finish(ports, taken.lease, 6)
        seen = 2
        while seen < 6:  # what one reader has, both have been given
            batch = await next_after(prompt, seen)
            assert batch is not None
            seen = batch.first_seq + len(batch.lines) - 1
        piled_up = await late.next(LIVENESS_S)
    log = await read_all(ports, channel_id)
    assert piled_up == LiveBatch(3, log[2:])


async def test_appends_that_write_nothing_are_not_announced(ports: Ports) -> None:
    taken = await running(ports)
    await append(ports, taken.lease, 2)
    async with ports.live.subscribe(taken.job.channel_id) as subscription:
        await append(ports, taken.lease, 2)
        await append(ports, taken.lease, 9)
        assert await subscription.next(0.02) is None


async def test_end_of_a_waiting_job_is_announced(ports: Ports) -> None:
    job = make_job()
    await enqueue(ports, job)
    async with ports.live.subscribe(job.channel_id) as subscription:
        await ports.intake.cancel(job.channel_id, StopReason.CLIENT)
        batch = await next_after(subscription, 1)
    assert batch == LiveBatch(2, [b'cancelled {"reason":"client"}'])


async def test_reader_subscribed_before_the_job_exists_sees_it_begin(ports: Ports) -> None:
    job = make_job()
    async with ports.live.subscribe(job.channel_id) as subscription:
        await enqueue(ports, job)
        batch = await subscription.next(LIVENESS_S)
    assert batch is not None
    assert batch.first_seq == 1


async def test_late_subscriber_gets_everything_from_the_log(ports: Ports) -> None:
    taken = await running(ports)
    await append(ports, taken.lease, 2, token_line("a"))
    async with ports.live.subscribe(taken.job.channel_id) as subscription:
        reader = asyncio.create_task(follow(ports, taken.job.channel_id, subscription))
        await append(ports, taken.lease, 3, token_line("b"))
        await finish(ports, taken.lease, 4)
        lines = await reader
    assert lines == await read_all(ports, taken.job.channel_id)


async def test_subscriber_after_the_end_gets_everything_from_the_log(ports: Ports) -> None:
    taken = await running(ports)
    await finish(ports, taken.lease, 2)
    async with ports.live.subscribe(taken.job.channel_id) as subscription:
        lines = await follow(ports, taken.job.channel_id, subscription)
    assert len(lines) == 2


async def test_slow_reader_is_told_and_the_log_fills_the_gap(ports: Ports) -> None:
    taken = await running(ports)
    async with ports.live.subscribe(taken.job.channel_id) as subscription:
        appends = [Append(taken.lease, 2 + number, (token_line("x"),)) for number in range(600)]
        await ports.source.append(appends)
        await finish(ports, taken.lease, 602)
        while await subscription.next(LIVENESS_S) is not None:
            pass
        lines = await follow(ports, taken.job.channel_id, subscription)
    assert len(lines) == 602
    assert lines == await read_all(ports, taken.job.channel_id)


async def test_two_readers_of_one_channel_both_get_all(ports: Ports) -> None:
    taken = await running(ports)
    channel_id = taken.job.channel_id
    async with (
        ports.live.subscribe(channel_id) as one,
        ports.live.subscribe(channel_id) as two,
    ):
        await append(ports, taken.lease, 2)
        expected = LiveBatch(2, [token_line()])
        assert await next_after(one, 1) == expected
        assert await next_after(two, 1) == expected


async def test_reader_stays_subscribed_when_another_one_leaves(ports: Ports) -> None:
    taken = await running(ports)
    channel_id = taken.job.channel_id
    async with ports.live.subscribe(channel_id) as stays:
        for number in range(5):
            async with ports.live.subscribe(channel_id):
                pass
            await append(ports, taken.lease, 2 + number)
            batch = await next_after(stays, 1 + number)
            assert batch is not None
            assert batch.first_seq == 2 + number


async def test_reader_that_comes_back_is_subscribed_again(ports: Ports) -> None:
    taken = await running(ports)
    for number in range(5):
        async with ports.live.subscribe(taken.job.channel_id) as subscription:
            await append(ports, taken.lease, 2 + number)
            batch = await next_after(subscription, 1 + number)
            assert batch is not None
            assert batch.first_seq == 2 + number


async def test_readers_coming_and_going_at_once_miss_nothing(ports: Ports) -> None:
    taken = await running(ports)
    channel_id = taken.job.channel_id
    tail = 1

    async def come_and_go(rounds: int) -> None:
        for _ in range(rounds):
            async with ports.live.subscribe(channel_id) as subscription:
                await subscription.next(0.001)

    for _ in range(10):
        await asyncio.gather(*(come_and_go(number) for number in range(5)))
        async with ports.live.subscribe(channel_id) as subscription:
            tail += 1
            await append(ports, taken.lease, tail)
            batch = await next_after(subscription, tail - 1)
            assert batch is not None
            assert batch.first_seq == tail


async def test_two_hundred_channels_on_one_bus(ports: Ports) -> None:
    jobs = [make_job() for _ in range(200)]
    await enqueue(ports, *jobs)
    subscribed = asyncio.Semaphore(0)

    async def read(job: Job) -> list[bytes]:
        async with ports.live.subscribe(job.channel_id) as subscription:
            subscribed.release()
            return await follow(ports, job.channel_id, subscription)

    async with asyncio.TaskGroup() as group:
        readers = {job.channel_id: group.create_task(read(job)) for job in jobs}
        for _ in jobs:
            await subscribed.acquire()
        for taken in await take(ports, 200):
            await append(ports, taken.lease, 2, token_line(taken.job.channel_id))
            await finish(ports, taken.lease, 3)
    for channel_id, reader in readers.items():
        assert reader.result()[1] == token_line(channel_id)
        assert len(reader.result()) == 3
