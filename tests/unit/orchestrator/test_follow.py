"""Following a channel gives every event once and in order, whatever happens to live messages and the store."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from relais_common.jobs.channels import new_channel_id
from relais_common.jobs.errors import ChannelNotFound, LogRewound
from relais_common.jobs.job import ChannelState, OnDisconnect, Operation, Status
from relais_common.queue import codec
from relais_common.queue.fanout import BufferedSubscription
from relais_common.queue.ports import LiveBatch, Look, Subscription
from relais_orchestrator.streams.follow import PAGE, Follower, is_terminal
from relais_testing.builders import COMPLETED, MODEL, token_line
from relais_testing.faults import Faults
from relais_testing.memory import MemoryStore
from relais_testing.ports import Ports, memory_ports
from relais_testing.steps import append, finish, read_all, running, start
from relais_testing.waiting import wait_until

IDLE_S = 0.05


@pytest.fixture
def ports(memory_store: MemoryStore) -> Ports:
    return memory_ports(memory_store)


@pytest.fixture
def faults() -> Faults:
    return Faults()


@pytest.fixture
def follower(ports: Ports, faults: Faults) -> Follower:
    return Follower(
        faults.around(ports.intake),
        faults.around(ports.log),
        faults.around(ports.live),
        idle_s=IDLE_S,
    )


Seen = AsyncGenerator[LiveBatch | ChannelState | None]


async def collect(batches: Seen) -> list[bytes]:
    """Every line until the end, each with the number that it must have."""
    lines: list[bytes] = []
    async with aclosing(batches):
        async for batch in batches:
            if isinstance(batch, LiveBatch):
                assert batch.lines
                assert batch.first_seq == len(lines) + 1
                lines += batch.lines
    return lines


async def next_lines(batches: Seen) -> LiveBatch:
    while not isinstance(batch := await anext(batches), LiveBatch):
        pass
    return batch


async def silence(batches: Seen) -> None:
    """None, and then where the channel stands."""
    assert await anext(batches) is None
    state = await anext(batches)
    assert isinstance(state, ChannelState)
    assert not state.status.is_terminal


@pytest.mark.parametrize("name", [b"completed", b"failed", b"cancelled", b"expired"])
def test_last_events_are_known_by_their_name(name: bytes) -> None:
    assert is_terminal(name + b" {}")
    assert not is_terminal(b"token {}")
    assert not is_terminal(b"completed_not {}")


async def test_late_subscriber_gets_everything_in_pages(ports: Ports, follower: Follower) -> None:
    taken = await running(ports)
    await append(ports, taken.lease, 2, *[token_line()] * (3 * PAGE))
    await finish(ports, taken.lease, 3 * PAGE + 2)
    channel_id = taken.job.channel_id
    assert await collect(follower.follow(channel_id, 0)) == await read_all(ports, channel_id)


async def test_events_come_as_they_happen(ports: Ports, follower: Follower) -> None:
    taken = await running(ports)
    async with aclosing(follower.follow(taken.job.channel_id, 0)) as batches:
        assert (await next_lines(batches)).first_seq == 1
        for seq in range(2, 6):
            coming = asyncio.create_task(next_lines(batches))
            await asyncio.sleep(0)
            await append(ports, taken.lease, seq, token_line(str(seq)))
            assert await coming == LiveBatch(seq, [token_line(str(seq))])
        await finish(ports, taken.lease, 6)
        assert is_terminal((await next_lines(batches)).lines[-1])
        with pytest.raises(StopAsyncIteration):
            await anext(batches)


async def test_resumes_after_a_number(ports: Ports, follower: Follower) -> None:
    taken = await running(ports)
    await append(ports, taken.lease, 2, token_line("a"), token_line("b"))
    await finish(ports, taken.lease, 4)
    async with aclosing(follower.follow(taken.job.channel_id, 2)) as batches:
        batch = await next_lines(batches)
    assert (batch.first_seq, batch.lines[0]) == (3, token_line("b"))


async def test_silence_gives_none_and_then_where_the_channel_stands(
    ports: Ports, follower: Follower
) -> None:
    taken = await running(ports)
    async with aclosing(follower.follow(taken.job.channel_id, 1)) as batches:
        for _ in range(3):
            await silence(batches)


async def test_silence_costs_one_call_to_the_store(
    ports: Ports, follower: Follower, faults: Faults
) -> None:
    taken = await running(ports)
    async with aclosing(follower.follow(taken.job.channel_id, 1)) as batches:
        await silence(batches)
        faults.calls.clear()
        await silence(batches)
    assert [name for name, _, _ in faults.calls] == ["look"]


async def test_channel_whose_log_has_gone_gives_its_end_with_the_text(
    ports: Ports,
    memory_store: MemoryStore,
    follower: Follower,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    taken = await running(ports)
    channel_id = taken.job.channel_id
    await finish(ports, taken.lease, 2)
    whole = await ports.intake.state(channel_id)
    assert whole is not None
    assert whole.text is not None
    memory_store.look = partial(_no_lines, memory_store.look)  # type: ignore[method-assign]
    monkeypatch.setattr(memory_store, "read", _nothing)
    async with aclosing(follower.follow(channel_id, 1)) as batches:
        assert [one async for one in batches] == [whole]


async def _nothing(*_: Any, **__: Any) -> list[bytes]:
    return []


async def _no_lines(look: Callable[..., Awaitable[Look | None]], *args: Any, **kwargs: Any) -> Look:
    seen = await look(*args, **kwargs)
    assert seen is not None
    return replace(seen, lines=[])


async def test_unknown_channel_is_said_to_be_unknown_at_once(follower: Follower) -> None:
    with pytest.raises(ChannelNotFound):
        await collect(follower.follow(new_channel_id(MODEL), 0))


async def test_after_what_was_there_the_log_is_not_read_again_for_what_is_heard(
    ports: Ports, follower: Follower, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked = 0

    def counted(method: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def count(*args: Any, **kwargs: Any) -> Any:
            nonlocal looked
            looked += 1
            return await method(*args, **kwargs)

        return count

    for name in ("look", "read"):
        monkeypatch.setattr(ports.log, name, counted(getattr(ports.log, name)))
    taken = await running(ports)
    async with aclosing(follower.follow(taken.job.channel_id, 0)) as batches:
        await next_lines(batches)
        for seq in range(2, 12):
            await append(ports, taken.lease, seq, token_line("a"))
            assert await next_lines(batches) == LiveBatch(seq, [token_line("a")])
    assert looked == 1


async def test_overlapping_live_batches_are_trimmed_to_what_is_new(
    ports: Ports, follower: Follower
) -> None:
    taken = await running(ports)
    async with aclosing(follower.follow(taken.job.channel_id, 1)) as batches:
        coming = asyncio.create_task(anext(batches))
        await asyncio.sleep(0.01)
        for first_seq in (2, 2, 3):
            await append(ports, taken.lease, first_seq, token_line("a"), token_line("b"))
        seen = await coming
        assert isinstance(seen, LiveBatch)
        assert seen.first_seq == 2
        lines = [*seen.lines]
        while len(lines) < 3:
            lines += (await next_lines(batches)).lines
        assert lines == [token_line("a"), token_line("b"), token_line("b")]


class Lossy:
    """A live bus over which only some batches come, and some come twice or late."""

    def __init__(self) -> None:
        self.subscription = BufferedSubscription(4)

    @asynccontextmanager
    async def subscribe(self, channel_id: str) -> AsyncIterator[Subscription]:
        yield self.subscription

    def nudge(self) -> None:
        self.subscription.drop()


async def test_gap_in_live_batches_is_filled_from_the_log(ports: Ports) -> None:
    taken = await running(ports)
    live = Lossy()
    following = asyncio.create_task(
        collect(Follower(ports.intake, ports.log, live, idle_s=60).follow(taken.job.channel_id, 0))
    )
    await asyncio.sleep(0.01)
    await append(ports, taken.lease, 2, *(token_line(str(seq)) for seq in range(2, 8)))
    live.subscription.put(LiveBatch(6, [token_line("6"), token_line("7")]))
    live.subscription.put(LiveBatch(2, [token_line("2")]))  # late, and known by now
    await asyncio.sleep(0.01)
    await finish(ports, taken.lease, 8)
    live.subscription.put(LiveBatch(8, (await read_all(ports, taken.job.channel_id))[-1:]))
    assert await following == await read_all(ports, taken.job.channel_id)


async def test_lost_live_messages_delay_and_never_hang(ports: Ports) -> None:
    taken = await running(ports)
    follower = Follower(ports.intake, ports.log, Lossy(), idle_s=0.02)
    following = asyncio.create_task(collect(follower.follow(taken.job.channel_id, 0)))
    for seq in range(2, 6):
        await append(ports, taken.lease, seq)
    await finish(ports, taken.lease, 6)
    assert await following == await read_all(ports, taken.job.channel_id)


async def test_reader_that_falls_far_behind_reads_the_log(ports: Ports, follower: Follower) -> None:
    taken = await running(ports)
    async with aclosing(follower.follow(taken.job.channel_id, 0)) as batches:
        lines = (await next_lines(batches)).lines
        for seq in range(2, 1002):  # more than it buffers, while it does not look
            await append(ports, taken.lease, seq, token_line(str(seq)))
        await finish(ports, taken.lease, 1002)
        async for batch in batches:
            if isinstance(batch, LiveBatch):
                assert batch.first_seq == len(lines) + 1
                lines += batch.lines
    assert lines == await read_all(ports, taken.job.channel_id)


@pytest.mark.parametrize("method", ["read", "look", "subscribe"])
async def test_store_that_goes_and_comes_back_is_a_long_silence(
    ports: Ports, follower: Follower, faults: Faults, method: str
) -> None:
    taken = await running(ports)
    faults.refuse(method, 2)
    following = asyncio.create_task(collect(follower.follow(taken.job.channel_id, 0)))
    # It looks after a silence alone.
    await wait_until(lambda: faults.count(method) > 2)
    await start(ports, taken.lease)
    await append(ports, taken.lease, 3)
    await finish(ports, taken.lease, 4)
    assert await following == await read_all(ports, taken.job.channel_id)


async def test_store_away_in_the_middle_loses_and_repeats_nothing(
    ports: Ports, follower: Follower, faults: Faults
) -> None:
    taken = await running(ports)
    following = asyncio.create_task(collect(follower.follow(taken.job.channel_id, 0)))
    await append(ports, taken.lease, 2, token_line("a"))
    await asyncio.sleep(0.01)
    faults.away = True
    ports.live.nudge()  # the connection is lost, so live messages may be
    await append(ports, taken.lease, 3, token_line("b"))
    await asyncio.sleep(IDLE_S)
    faults.away = False
    await finish(ports, taken.lease, 4)
    assert await following == await read_all(ports, taken.job.channel_id)


async def test_leaving_ends_the_subscription(ports: Ports) -> None:
    taken = await running(ports)
    left = asyncio.Event()

    class Watched(Lossy):
        @asynccontextmanager
        async def subscribe(self, channel_id: str) -> AsyncIterator[Subscription]:
            try:
                yield self.subscription
            finally:
                left.set()

    batches = Follower(ports.intake, ports.log, Watched(), idle_s=60).follow(
        taken.job.channel_id, 0
    )
    await anext(batches)
    await batches.aclose()
    assert left.is_set()


async def test_every_way_to_end_ends_the_stream(ports: Ports, follower: Follower) -> None:
    taken = await running(ports)
    await finish(ports, taken.lease, 2, COMPLETED)
    assert len(await collect(follower.follow(taken.job.channel_id, 0))) == 2


class Rewinding(Lossy):
    """A log that loses its end and grows again, and a live bus that tells of it as the real one does."""

    def __init__(self, *lines: bytes) -> None:
        super().__init__()
        self.lines = list(lines)

    async def read(self, channel_id: str, *, after: int, limit: int) -> list[bytes]:
        return self.lines[after : after + limit]

    async def look(self, channel_id: str, *, after: int, limit: int) -> Look:
        ended = bool(self.lines) and is_terminal(self.lines[-1])
        state = ChannelState(
            channel_id=channel_id,
            model=MODEL,
            key_id="key-a",
            operation=Operation.CHAT,
            status=Status.COMPLETED if ended else Status.RUNNING,
            on_disconnect=OnDisconnect.CONTINUE,
            queue_position=0,
            estimated_wait_s=None,
            tail=len(self.lines),
            accepted_at_s=1.0,
            started_at_s=2.0,
            finished_at_s=3.0 if ended else None,
            text=None,
            outcome=None,
        )
        return Look(state, await self.read(channel_id, after=after, limit=limit))

    def rewind(self, tail: int) -> None:
        """Redis comes back with the first `tail` events only."""
        del self.lines[tail:]
        self.subscription.drop()

    def append(self, *lines: bytes) -> None:
        """As the script does: to the log, and to whoever listens."""
        first_seq = len(self.lines) + 1
        self.lines += lines
        self.subscription.put(LiveBatch(first_seq, list(lines)))

    def follow(self, after: int = 0, idle_s: float = 60) -> Seen:
        return Follower(MemoryStore(), self, self, idle_s=idle_s).follow("channel", after)


A, B, C, D = (token_line(text) for text in "abcd")
END = codec.encode_event(COMPLETED)


async def test_log_that_a_living_worker_heals_goes_on_with_no_gap_and_no_repeat() -> None:
    log = Rewinding(A, B, C)
    async with aclosing(log.follow()) as batches:
        assert await next_lines(batches) == LiveBatch(1, [A, B, C])
        log.rewind(1)
        await silence(batches)
        coming = asyncio.create_task(anext(batches))
        await asyncio.sleep(0.01)
        for lines in ([B], [C], [D, END]):
            log.append(*lines)
            await asyncio.sleep(0)
        assert await coming == LiveBatch(4, [D, END])


async def test_log_that_was_healed_before_anybody_looked_goes_on() -> None:
    log = Rewinding(A, B, C)
    async with aclosing(log.follow()) as batches:
        await next_lines(batches)
        log.rewind(1)
        log.append(B, C, D)
        assert await next_lines(batches) == LiveBatch(4, [D])


async def test_short_log_is_a_silence_as_long_as_it_may_grow_again() -> None:
    log = Rewinding(A, B, C)
    async with aclosing(log.follow(idle_s=0.01)) as batches:
        await next_lines(batches)
        log.rewind(1)
        for _ in range(5):
            await silence(batches)
        log.append(B)
        for _ in range(5):
            await silence(batches)


async def test_request_that_ended_short_of_what_was_given_is_never_silence() -> None:
    log = Rewinding(A, B, C)
    async with aclosing(log.follow()) as batches:
        await next_lines(batches)
        log.rewind(1)
        log.append(END)
        with pytest.raises(LogRewound):
            await next_lines(batches)


@pytest.mark.parametrize(
    "regrown",
    [
        pytest.param([B, D], id="another line in the place of the last one given"),
        pytest.param([B, D, C], id="and more after it"),
        pytest.param([D, END], id="an end where a token was"),
    ],
)
async def test_log_that_grows_again_to_something_else_is_never_mixed_with_what_was_given(
    regrown: list[bytes],
) -> None:
    log = Rewinding(A, B, C)
    async with aclosing(log.follow()) as batches:
        await next_lines(batches)
        log.rewind(1)
        await silence(batches)
        coming = asyncio.create_task(anext(batches))
        await asyncio.sleep(0.01)
        for (
            line
        ) in regrown:  # one at a time, as live messages: each alone may look like what comes next
            log.append(line)
            await asyncio.sleep(0.001)
        with pytest.raises(LogRewound):
            await coming


async def test_line_of_the_last_event_id_is_held_against_the_log_later_on() -> None:
    log = Rewinding(A, B, C)
    async with aclosing(log.follow(after=3)) as batches:
        coming = asyncio.create_task(anext(batches))
        await asyncio.sleep(0.01)
        log.rewind(2)
        assert await coming is None
        assert isinstance(await anext(batches), ChannelState)
        coming = asyncio.create_task(anext(batches))
        await asyncio.sleep(0.01)
        log.append(D)
        with pytest.raises(LogRewound):
            await coming
