"""Redis carries a step out, and the answer never comes: whoever asked asks again, and nothing is doubled."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any, cast

import pytest
from redis.asyncio import Redis

from relais_common.jobs.errors import StoreUnavailable
from relais_common.jobs.job import Append, TakenJob, Verdict
from relais_common.queue import codec, keys
from relais_common.queue.redis_store import RedisSettings, RedisStore, open_store
from relais_common.queue.scripts import NAMES
from relais_testing.builders import MODEL, make_job, token_line
from relais_testing.ports import Ports, redis_ports
from relais_testing.reply_eater import ReplyEater
from relais_testing.sse_client import SseEvent, ids_of, read_events, text_of
from relais_testing.stack import Front, Stack, answer_to, chat_request
from relais_testing.steps import (
    append,
    crash,
    enqueue,
    finish,
    ids,
    names,
    read_all,
    start,
    take,
    take_one,
)
from relais_testing.traced import running_traced
from relais_testing.valkey import ValkeyServer
from relais_testing.waiting import wait_until
from relais_testing.worker import MORTAL_LEASE_S

OPERATORS = {"queue", "channels", "dead", "replay", "drop"}
"""No part of a request's way; the first three only read."""

TRACE_WRITERS = {"collect", "written", "shelve"}
"""Of whoever writes traces to the database, which these orchestrators are not."""

WHOLE_CLIENT = 4
"""How many replies in a row must be lost until the client itself gives up: it tries three times again."""


@pytest.fixture
async def eater(redis_url: str, redis_server: ValkeyServer) -> AsyncIterator[ReplyEater]:
    async with ReplyEater(redis_server.host, redis_server.port) as eater:
        yield eater


@pytest.fixture
async def store(eater: ReplyEater) -> AsyncIterator[RedisStore]:
    """Connected through the proxy."""
    async with open_store(RedisSettings(eater.url)) as store:
        yield store


@pytest.fixture
async def stack(eater: ReplyEater) -> AsyncIterator[Stack]:
    stack = await Stack.open(eater.url)
    yield stack
    await stack.close()


@pytest.mark.parametrize("script", sorted(set(NAMES) - OPERATORS - TRACE_WRITERS))
async def test_work_in_which_replies_to_a_script_are_lost_is_done_once(
    stack: Stack, eater: ReplyEater, redis_url: str, script: str
) -> None:
    # Patient with streams that are opened late on a busy machine.
    fronts = [await stack.front(WATCH_LEASE_S="60") for _ in range(2)]
    # What these two take never begins: one hands it back, the other dies with it.
    never: dict[str, Any] = {"tokens_per_s": 0.001, "max_num_seqs": 3, "lease_s": MORTAL_LEASE_S}
    drained = await stack.worker(drain_s=0.01, **never)
    killed = await stack.worker(**never)
    # In a row, so that the client gives up and the loops above it must go on; then one in two.
    eater.eat(script, WHOLE_CLIENT)
    eater.eat_every(script, 2)
    requests = [
        chat_request(
            f"request {number}",
            params={"max_tokens": 60},
            on_disconnect="cancel" if number % 3 == 0 else "continue",
        )
        for number in range(16)
    ]
    channels = [
        await submit_until_accepted(fronts[number % 2], "/v1/requests", body, f"key-{number}")
        for number, body in enumerate(requests)
    ]
    assert len(set(channels)) == len(channels)
    leaving, channels = channels[:2], channels[2:]
    unwanted = {"model": MODEL, "input": "unwanted", "background": True}
    response_id = await submit_until_accepted(fronts[0], "/v1/responses", unwanted, "response")
    reading = [
        asyncio.create_task(read_whole(fronts[number % 2], channel_id))
        for number, channel_id in enumerate(channels)
    ]
    for channel_id in leaving:
        await delete(fronts[0], f"/v1/channels/{channel_id}", 200, 202)
    # Where the answer was lost, it is not there any more.
    await delete(fronts[1], f"/v1/responses/{response_id}", 200, 404)
    await wait_until(lambda: drained.held_jobs.all() and killed.held_jobs.all())
    if script == "renew":
        await wait_until(lambda: eater.eaten[script] >= WHOLE_CLIENT)
    await drained.drain()
    await killed.kill()
    for _ in range(2):
        await stack.worker(max_num_seqs=4)
    texts = await asyncio.gather(*reading)
    assert texts == [answer_to(f"request {number}", 60) for number in range(2, 16)]
    for channel_id in channels:
        assert await wait_until(partial(final_status, fronts[0], channel_id)) == "completed"
    for channel_id in leaving:
        assert await wait_until(partial(final_status, fronts[0], channel_id)) == "cancelled"
    # Who has left is said now and then, together.
    await wait_until(lambda: eater.eaten[script])
    eater.stop_eating()
    await wait_until(stack.idle)
    async with fronts[0].get(f"/v1/responses/{response_id}") as response:
        assert response.status == 404
    async with Redis.from_url(redis_url) as redis:
        await assert_nothing_is_left_over(redis, channels + leaving)


async def submit_until_accepted(front: Front, path: str, body: dict[str, object], key: str) -> str:
    """As a client does that heeds a 503. Returns the id of what was created."""

    async def accepted() -> str | None:
        headers = {"Idempotency-Key": key}
        async with front.post(path, body, headers=headers) as response:
            answer = await response.json()
            assert response.status in (200, 202, 503), answer
            found: str | None = answer.get("channel_id") or answer.get("id")
            return found

    created: str | None = await wait_until(accepted)
    assert created is not None
    return created


async def delete(front: Front, path: str, *done: int) -> None:
    async def deleted() -> bool:
        async with front.delete(path) as response:
            return response.status in done

    await wait_until(deleted)


async def read_whole(front: Front, channel_id: str) -> str:
    """The text of a channel, by as many connections as it takes; each event comes once, in order."""
    events: list[SseEvent] = []
    path = f"/v1/channels/{channel_id}/events"
    while not events or events[-1].name not in ("completed", "failed", "cancelled", "expired"):
        try:
            events += await read_events(front.session, path, after=len(events))
        except AssertionError:  # 503
            await asyncio.sleep(0.05)
    assert ids_of(events) == list(range(1, len(events) + 1))
    assert Counter(event.name for event in events)["started"] == 1
    return text_of(events)


async def final_status(front: Front, channel_id: str) -> str | None:
    async with front.get(f"/v1/channels/{channel_id}") as response:
        state = await response.json()
    status: str | None = state.get("status")
    return None if status in ("queued", "running") else status


async def assert_nothing_is_left_over(redis: Redis, channels: list[str]) -> None:
    """Every count is back at zero, and every channel has one end."""
    counts: dict[bytes, bytes] = cast("Any", await redis.hgetall(keys.counts(MODEL)))
    waiting = {name: int(n) for name, n in counts.items() if name.startswith(b"waiting")}
    assert set(waiting.values()) == {0}
    assert not [name for name in counts if name.startswith(b"lane:")]
    sets = (keys.inflight(MODEL), keys.deadlines(MODEL), keys.watched(MODEL))
    assert [await redis.zcard(name) for name in sets] == [0, 0, 0]
    assert not await redis.hgetall(keys.open_jobs(MODEL))
    assert not await redis.keys("relais:*:queue:*")
    assert not await redis.keys("relais:*:turns:*")
    for channel_id in channels:
        lines: list[bytes] = cast("Any", await redis.lrange(keys.log(channel_id), 0, -1))
        kinds = [codec.split_event(line)[0] for line in lines]
        assert [kind for kind in kinds if kind in codec.TERMINAL_NAMES] == kinds[-1:]


@pytest.fixture
def ports(store: RedisStore) -> Ports:
    return redis_ports(store)


async def test_script_whose_reply_is_lost_was_carried_out_and_is_sent_again_by_the_client(
    ports: Ports, eater: ReplyEater
) -> None:
    await enqueue(ports, make_job())  # now the server knows the script
    asked = eater.requests["enqueue"]
    eater.eat("enqueue")
    job = make_job()
    (accepted,) = await enqueue(ports, job)
    assert (eater.eaten["enqueue"], eater.requests["enqueue"] - asked) == (1, 2)
    assert accepted.duplicate
    assert (await ports.intake.depth(MODEL)).waiting == 2


async def test_accepting_again_doubles_nothing_where_a_new_channel_would(
    ports: Ports, eater: ReplyEater
) -> None:
    job = make_job()
    await lose(eater, "enqueue", partial(enqueue, ports, job))
    await enqueue(ports, job)
    assert (await ports.intake.depth(MODEL)).waiting == 1
    await enqueue(ports, make_job())  # the naive retry: another id for the same request
    assert (await ports.intake.depth(MODEL)).waiting == 2


async def test_taking_again_gives_the_same_jobs_where_a_new_call_would_take_more(
    ports: Ports, eater: ReplyEater
) -> None:
    jobs = [make_job() for _ in range(4)]
    await enqueue(ports, *jobs)
    await lose(eater, "take", partial(take, ports, 2, call_id="first"))
    assert ids(await take(ports, 2, call_id="first")) == ids(jobs[:2])
    await lose(eater, "take", partial(take, ports, 1, call_id="second"))
    naive: list[TakenJob] = await take(ports, 1, call_id="a new one")
    assert ids(naive) == ids(jobs[3:])  # and the third is in nobody's hands until its lease is over


async def test_appending_again_adds_nothing_where_appending_at_the_tail_would(
    ports: Ports, eater: ReplyEater
) -> None:
    await enqueue(ports, make_job())
    taken = await take_one(ports)
    channel_id = taken.job.channel_id
    lines = (token_line("a"), token_line("b"))
    await lose(eater, "append", partial(append, ports, taken.lease, 2, *lines))
    assert await append(ports, taken.lease, 2, *lines) == Verdict(held=True, tail=3)
    assert (await read_all(ports, channel_id))[1:] == list(lines)
    tail = len(await read_all(ports, channel_id))
    await ports.source.append([Append(taken.lease, tail + 1, lines, True)])  # with no number kept
    assert (await read_all(ports, channel_id))[1:] == list(lines) * 2


async def test_starting_and_ending_again_say_so_once(ports: Ports, eater: ReplyEater) -> None:
    await enqueue(ports, make_job())
    taken = await take_one(ports)
    await lose(eater, "start", partial(start, ports, taken.lease))
    assert await start(ports, taken.lease) == Verdict(held=True, tail=2)
    await lose(eater, "finish", partial(finish, ports, taken.lease, 3))
    assert await finish(ports, taken.lease, 3) == Verdict(held=True, tail=3)
    assert await names(ports, taken.job.channel_id) == ["queued", "started", "completed"]


async def test_replaying_and_dropping_dead_letters_again_changes_nothing(
    ports: Ports, eater: ReplyEater
) -> None:
    for _ in range(2):
        await enqueue(ports, make_job())
        taken = await take_one(ports, idle=True)
        await start(ports, taken.lease)
        await crash(ports, taken.lease, max_failures=1)
    first, second = await ports.inspector.dead_letters(MODEL, limit=10)
    replay = partial(
        ports.inspector.replay,
        first.channel_id,
        new_channel_id=make_job().channel_id,
        max_waiting=100,
    )
    await lose(eater, "replay", replay)
    replayed = await replay()
    assert replayed is not None
    assert replayed.duplicate
    assert (await ports.intake.depth(MODEL)).waiting == 1
    drop = partial(ports.inspector.drop, second.channel_id)
    await lose(eater, "drop", drop)
    assert await drop()
    assert await ports.inspector.dead_letters(MODEL, limit=10) == []


async def test_handing_traces_over_again_loses_and_doubles_none(
    ports: Ports, eater: ReplyEater
) -> None:
    for _ in range(3):
        await finish(ports, (await running_traced(ports)).lease, 2)
    collect = partial(ports.traces.collect, MODEL, writer="w", limit=10, claim_after_s=60.0)
    await lose(eater, "collect", collect)
    entries = [one.entry_id for one in (await collect()).traces]
    assert len(set(entries)) == 3
    written = partial(ports.traces.written, MODEL, entries[:1])
    await lose(eater, "written", written)
    await written()
    set_aside = partial(ports.traces.set_aside, MODEL, entries[1:2])
    await lose(eater, "shelve", set_aside)
    await set_aside()
    assert [one.entry_id for one in (await collect()).traces] == entries[2:]


async def lose(eater: ReplyEater, script: str, call: Callable[[], Awaitable[object]]) -> None:
    """Make a call whose every answer is lost, though it is carried out each time."""
    # The first time, the server may not know the script; what it says then is not eaten.
    eaten = eater.eaten[script]
    eater.eat(script, WHOLE_CLIENT)
    with pytest.raises(StoreUnavailable):
        await call()
    assert eater.eaten[script] - eaten == WHOLE_CLIENT
