"""What operators see, and what becomes of dead letters."""

from __future__ import annotations

import asyncio
from dataclasses import asdict, replace
from typing import Any

import pytest

from relais_common.jobs.channels import new_channel_id
from relais_common.jobs.chat import Message
from relais_common.jobs.errors import QueueFull, TooManyInFlight, Unreadable
from relais_common.jobs.inspection import ChannelFilter, ChannelView, KeyBacklog
from relais_common.jobs.job import (
    Accepted,
    Job,
    OnDisconnect,
    Operation,
    Priority,
    QueueDepth,
    Status,
    StopReason,
    TakenJob,
)
from relais_common.queue import keys, script_values
from relais_common.queue.redis_store import RedisStore
from relais_testing.builders import MODEL, make_job
from relais_testing.ports import Ports, redis_ports
from relais_testing.steps import (
    append,
    crash,
    enqueue,
    events,
    finish,
    names,
    reap,
    running,
    start,
    take,
    take_one,
)
from relais_testing.waiting import LIVENESS_S, returns_at_once

SECRET = "what nobody but its model may read"


async def dead(ports: Ports, job: Job | None = None) -> TakenJob:
    """A job that was set aside after one crash."""
    taken = await running(ports, job)
    await start(ports, taken.lease)
    await crash(ports, taken.lease, max_failures=1)
    return taken


async def suspect(ports: Ports, job: Job | None = None) -> Job:
    """A waiting job with one crash to its name."""
    taken = await running(ports, job)
    await start(ports, taken.lease)
    await crash(ports, taken.lease, max_failures=9)
    return taken.job


async def listed(
    ports: Ports,
    which: ChannelFilter = ChannelFilter.ALL,
    *,
    limit: int = 100,
    latest: bool = False,
) -> list[ChannelView]:
    return await ports.inspector.channels(MODEL, which=which, limit=limit, latest=latest)


async def listed_ids(
    ports: Ports,
    which: ChannelFilter = ChannelFilter.ALL,
    *,
    limit: int = 100,
    latest: bool = False,
) -> list[str]:
    return [one.channel_id for one in await listed(ports, which, limit=limit, latest=latest)]


async def replay(
    ports: Ports, channel_id: str, as_channel: str | None = None, *, max_waiting: int = 100
) -> Accepted | None:
    return await ports.inspector.replay(
        channel_id,
        new_channel_id=new_channel_id(MODEL) if as_channel is None else as_channel,
        max_waiting=max_waiting,
    )


# The queue


async def test_queue_that_was_never_used_is_all_zeros(ports: Ports) -> None:
    view = await ports.inspector.queue(MODEL, top_keys=5)
    assert asdict(view) == {
        "model": MODEL,
        "waiting": 0,
        "waiting_by_priority": {"high": 0, "normal": 0, "low": 0, "batch": 0},
        "waiting_by_key": (),
        "oldest_waiting_s": None,
        "suspects": 0,
        "running": 0,
        "dead_letters": 0,
        "stored_bytes": 0,
        "waiting_traces": 0,
        "oldest_trace_s": None,
        "service_s": None,
        "estimated_wait_s": None,
    }


async def test_queue_counts_waiting_jobs_by_priority_and_key(ports: Ports) -> None:
    await enqueue(
        ports,
        *[make_job("a", priority=Priority.HIGH) for _ in range(2)],
        *[make_job("b") for _ in range(3)],
        *[make_job("a", priority=Priority.LOW) for _ in range(2)],
        make_job("c"),
    )
    view = await ports.inspector.queue(MODEL, top_keys=2)
    assert view.waiting == 8
    assert view.waiting_by_priority == {"high": 2, "normal": 4, "low": 2, "batch": 0}
    assert view.waiting_by_key == (KeyBacklog("a", 4), KeyBacklog("b", 3))
    assert view.oldest_waiting_s is not None
    assert 0 <= view.oldest_waiting_s < 60


async def test_queue_counts_what_was_cancelled_or_taken_no_more(ports: Ports) -> None:
    gone, *_ = jobs = [make_job("a") for _ in range(3)]
    await enqueue(ports, *jobs)
    await ports.intake.cancel(gone.channel_id, StopReason.CLIENT)
    await take_one(ports)
    view = await ports.inspector.queue(MODEL, top_keys=5)
    assert (view.waiting, view.running) == (1, 1)
    assert view.waiting_by_priority == {"high": 0, "normal": 1, "low": 0, "batch": 0}
    assert view.waiting_by_key == (KeyBacklog("a", 1),)


async def test_queue_shows_suspects_among_the_waiting(ports: Ports) -> None:
    await suspect(ports, make_job("a"))
    await enqueue(ports, make_job("b"))
    view = await ports.inspector.queue(MODEL, top_keys=5)
    assert (view.waiting, view.suspects, view.running, view.dead_letters) == (2, 1, 0, 0)
    assert view.waiting_by_key == (KeyBacklog("a", 1), KeyBacklog("b", 1))


async def test_queue_tells_the_mean_service_time_and_the_wait_at_its_end(ports: Ports) -> None:
    taken = await running(ports)
    await finish(ports, taken.lease, 2)
    await enqueue(ports, *[make_job() for _ in range(3)])
    view = await ports.inspector.queue(MODEL, top_keys=5)
    assert view.service_s is not None
    assert view.service_s >= 0
    assert view.estimated_wait_s is not None
    assert view.estimated_wait_s == pytest.approx(4 * view.service_s, abs=0.001)


async def test_each_model_has_a_queue_of_its_own(ports: Ports) -> None:
    await enqueue(ports, make_job(model="other/model"))
    assert (await ports.inspector.queue(MODEL, top_keys=5)).waiting == 0
    assert (await ports.inspector.queue("other/model", top_keys=5)).waiting == 1
    assert await listed(ports) == []


async def test_queue_view_of_many_keys_finds_the_longest_and_the_oldest(
    redis_store: RedisStore,
) -> None:
    ports = redis_ports(redis_store)
    oldest = make_job("key-0")
    await enqueue(ports, oldest, *[make_job(f"key-{number}") for number in range(300)])
    tombstones = [make_job("key-300") for _ in range(40)]
    await enqueue(ports, *tombstones, *[make_job("key-300") for _ in range(60)])
    for job in tombstones:
        await ports.intake.cancel(job.channel_id, StopReason.CLIENT)
    await redis_store.redis.hset(keys.job(oldest.channel_id), "accepted_at", "1.0")
    view = await ports.inspector.queue(MODEL, top_keys=2)
    assert view.waiting_by_key == (KeyBacklog("key-300", 60), KeyBacklog("key-0", 2))
    assert view.oldest_waiting_s is not None
    assert view.oldest_waiting_s > 1e9


# Channels


async def test_waiting_job_is_listed_with_its_facts(ports: Ports) -> None:
    job = make_job("a", priority=Priority.HIGH, deadline_s=100.0)
    await enqueue(ports, job)
    (view,) = await listed(ports)
    assert (view.channel_id, view.key_id) == (job.channel_id, "a")
    assert (view.priority, view.operation) == (Priority.HIGH, Operation.CHAT)
    assert view.status is Status.QUEUED
    assert 0 <= view.age_s < 60
    assert 40 < view.deadline_in_s <= 100
    assert (view.running_s, view.worker, view.stop) == (None, None, None)
    assert (view.takes, view.failures, view.tail) == (0, 0, 1)


async def test_running_job_is_listed_with_its_worker(ports: Ports) -> None:
    await enqueue(ports, make_job())
    taken = await take_one(ports, worker_id="w7")
    await start(ports, taken.lease)
    await append(ports, taken.lease, 3)
    await ports.intake.cancel(taken.job.channel_id, StopReason.CLIENT)
    (view,) = await listed(ports)
    assert (view.status, view.worker, view.stop) == (Status.RUNNING, "w7", StopReason.CLIENT)
    assert (view.takes, view.failures, view.tail) == (1, 0, 3)
    assert view.running_s is not None
    assert 0 <= view.running_s < 60


async def test_job_that_came_back_is_listed_as_waiting_without_worker(ports: Ports) -> None:
    job = await suspect(ports)
    (view,) = await listed(ports)
    assert (view.channel_id, view.status, view.worker) == (job.channel_id, Status.QUEUED, None)
    assert (view.takes, view.failures, view.running_s) == (1, 1, None)


async def test_channels_are_listed_by_deadline_from_either_end(ports: Ports) -> None:
    late, soon, middle = (make_job(deadline_s=at) for at in (300.0, 100.0, 200.0))
    await enqueue(ports, late, soon, middle)
    expected = [job.channel_id for job in (soon, middle, late)]
    assert await listed_ids(ports) == expected
    assert await listed_ids(ports, limit=2) == expected[:2]
    assert await listed_ids(ports, limit=2, latest=True) == [expected[2], expected[1]]
    assert await listed_ids(ports, ChannelFilter.QUEUED, limit=1, latest=True) == [expected[2]]


async def test_channels_are_listed_by_what_they_do(ports: Ports) -> None:
    await enqueue(ports, *[make_job(deadline_s=200.0 + number) for number in range(6)])
    held = [taken.job.channel_id for taken in await take(ports, 3)]
    assert len(held) == 3
    doubtful = await suspect(ports, make_job(deadline_s=100.0, priority=Priority.HIGH))
    everything = await listed_ids(ports)
    waiting = [one for one in everything if one not in held]
    assert len(everything) == 7
    assert await listed_ids(ports, ChannelFilter.RUNNING) == held
    assert await listed_ids(ports, ChannelFilter.RUNNING, latest=True) == held[::-1]
    assert await listed_ids(ports, ChannelFilter.RUNNING, limit=2) == held[:2]
    assert await listed_ids(ports, ChannelFilter.SUSPECT) == [doubtful.channel_id]
    assert await listed_ids(ports, ChannelFilter.QUEUED) == waiting
    assert await listed_ids(ports, ChannelFilter.QUEUED, limit=3) == waiting[:3]
    assert await listed_ids(ports, ChannelFilter.QUEUED, latest=True) == waiting[::-1]
    assert waiting[0] == doubtful.channel_id


async def test_ended_channels_are_not_listed(ports: Ports) -> None:
    await dead(ports)
    taken = await running(ports)
    await finish(ports, taken.lease, 2)
    await enqueue(ports, job := make_job())
    await ports.intake.cancel(job.channel_id, StopReason.CLIENT)
    assert await listed(ports) == []


async def test_running_job_past_its_deadline_is_listed_first(ports: Ports) -> None:
    await enqueue(ports, make_job(deadline_s=500.0), overdue := make_job())
    await take(ports, 2)
    await ports.let_deadline_pass(overdue.channel_id)
    await reap(ports)
    first, _ = await listed(ports)
    assert (first.channel_id, first.stop) == (overdue.channel_id, StopReason.DEADLINE)
    assert first.deadline_in_s < 0
    assert (await listed_ids(ports, ChannelFilter.RUNNING))[0] == overdue.channel_id
    assert (await listed_ids(ports, latest=True))[-1] == overdue.channel_id


async def test_page_of_waiting_jobs_is_full_though_many_run(ports: Ports) -> None:
    await enqueue(ports, *[make_job(deadline_s=100.0 + number) for number in range(60)])
    await take(ports, 50)
    assert len(await listed(ports, ChannelFilter.QUEUED, limit=5)) == 5
    assert len(await listed(ports, ChannelFilter.QUEUED, limit=50)) == 10


# Dead letters


async def test_nothing_is_dead_at_first(ports: Ports) -> None:
    await enqueue(ports, job := make_job())
    assert await ports.inspector.dead_letters(MODEL, limit=10) == []
    assert await ports.inspector.dead_letter(job.channel_id) is None
    assert await ports.inspector.dead_letter(make_job().channel_id) is None


async def test_dead_letter_says_whose_it_was_and_why(ports: Ports) -> None:
    job = make_job("a", priority=Priority.LOW, messages=(Message("user", SECRET),))
    taken = await dead(ports, job)
    (letter,) = await ports.inspector.dead_letters(MODEL, limit=10)
    assert (letter.channel_id, letter.key_id) == (taken.job.channel_id, "a")
    assert (letter.priority, letter.operation) == (Priority.LOW, Operation.CHAT)
    assert (letter.takes, letter.failures, letter.worker) == (1, 1, "worker-1")
    assert letter.code == "worker_lost"
    assert letter.message
    assert letter.failed_at_s >= letter.accepted_at_s
    assert letter.request_bytes > len(SECRET)
    assert letter.replayed_as is None
    assert SECRET not in repr(letter)
    assert await ports.inspector.dead_letter(taken.job.channel_id) == letter
    assert (await ports.inspector.queue(MODEL, top_keys=5)).dead_letters == 1


async def test_dead_letters_are_listed_newest_first(ports: Ports) -> None:
    order = [(await dead(ports)).job.channel_id for _ in range(4)]
    letters = await ports.inspector.dead_letters(MODEL, limit=3)
    assert [letter.channel_id for letter in letters] == order[:0:-1]
    assert await ports.inspector.dead_letters(MODEL, limit=0) == []


async def test_other_failures_are_no_dead_letters(ports: Ports) -> None:
    taken = await running(ports)
    await ports.intake.cancel(taken.job.channel_id, StopReason.CLIENT)
    await crash(ports, taken.lease)
    assert await ports.inspector.dead_letter(taken.job.channel_id) is None
    assert await ports.inspector.drop(taken.job.channel_id) is False
    assert await replay(ports, taken.job.channel_id) is None


async def test_replay_runs_the_request_on_a_channel_of_its_own(ports: Ports) -> None:
    old = (await dead(ports, make_job("a", priority=Priority.HIGH, deadline_s=100.0))).job
    before = await names(ports, old.channel_id)
    accepted = await replay(ports, old.channel_id, new := new_channel_id(MODEL))
    assert accepted == Accepted(new, Status.QUEUED, 1, None)
    taken = await take_one(ports)
    assert taken.job == replace(old, channel_id=new)
    assert (taken.failures, taken.tail) == (0, 1)
    assert taken.interrupted is None
    assert 40 < taken.deadline_in_s <= 100
    await finish(ports, taken.lease, 2)
    assert await names(ports, new) == ["queued", "completed"]
    # The old channel ended once, and stays as it ended.
    assert await names(ports, old.channel_id) == before
    assert before[-1] == "failed"
    state = await ports.intake.state(old.channel_id)
    assert state is not None
    assert state.status is Status.FAILED


async def test_replayed_letter_leaves_the_list_and_remembers_its_new_channel(ports: Ports) -> None:
    other = (await dead(ports)).job.channel_id
    old = (await dead(ports)).job.channel_id
    await replay(ports, old, new := new_channel_id(MODEL))
    letters = await ports.inspector.dead_letters(MODEL, limit=10)
    assert [letter.channel_id for letter in letters] == [other]
    letter = await ports.inspector.dead_letter(old)
    assert letter is not None
    assert (letter.replayed_as, letter.request_bytes) == (new, 0)
    state = await ports.intake.state(old)
    assert state is not None
    assert state.replayed_as == new
    assert (await ports.inspector.queue(MODEL, top_keys=5)).dead_letters == 1


async def test_replay_sent_twice_queues_once(ports: Ports) -> None:
    old = (await dead(ports)).job.channel_id
    new = new_channel_id(MODEL)
    first = await replay(ports, old, new)
    again = await replay(ports, old, new)
    other = await replay(ports, old, new_channel_id(MODEL))
    assert first == Accepted(new, Status.QUEUED, 1, None)
    assert again == other == Accepted(new, Status.QUEUED, 1, None, duplicate=True)
    assert await ports.intake.depth(MODEL) == QueueDepth(waiting=1, running=0)


async def test_racing_replays_queue_once(ports: Ports) -> None:
    old = (await dead(ports)).job.channel_id
    answers = await asyncio.gather(*(replay(ports, old) for _ in range(20)))
    assert len({answer.channel_id for answer in answers if answer is not None}) == 1
    assert sum(answer is not None and not answer.duplicate for answer in answers) == 1
    assert await ports.intake.depth(MODEL) == QueueDepth(waiting=1, running=0)


async def test_replay_outlives_a_missing_reader(ports: Ports) -> None:
    old = (await dead(ports, make_job(on_disconnect=OnDisconnect.CANCEL))).job.channel_id
    accepted = await replay(ports, old)
    assert accepted is not None
    state = await ports.intake.state(accepted.channel_id)
    assert state is not None
    assert state.on_disconnect is OnDisconnect.CONTINUE


async def test_replay_waits_like_any_other_request(ports: Ports) -> None:
    old = (await dead(ports, make_job("b"))).job.channel_id
    await enqueue(ports, *[make_job("b") for _ in range(3)])
    accepted = await replay(ports, old)
    assert accepted is not None
    assert accepted.queue_position == 4
    # It counts among its key's requests, too.
    with pytest.raises(TooManyInFlight):
        await ports.intake.enqueue(make_job("b"), max_waiting=100, max_inflight_per_key=4)
    view = await ports.inspector.queue(MODEL, top_keys=5)
    assert view.waiting_by_key == (KeyBacklog("b", 4),)
    assert [one.job.channel_id for one in await take(ports, 4)][-1] == accepted.channel_id
    assert await ports.intake.depth(MODEL) == QueueDepth(waiting=0, running=4)


async def test_full_queue_takes_no_replay_and_keeps_the_letter(ports: Ports) -> None:
    old = (await dead(ports)).job.channel_id
    await enqueue(ports, make_job(), make_job())
    with pytest.raises(QueueFull):
        await replay(ports, old, max_waiting=2)
    letter = await ports.inspector.dead_letter(old)
    assert letter is not None
    assert letter.replayed_as is None
    assert await replay(ports, old, max_waiting=3) is not None


async def test_replay_that_dies_again_is_a_dead_letter_of_its_own(ports: Ports) -> None:
    old = (await dead(ports)).job.channel_id
    accepted = await replay(ports, old)
    assert accepted is not None
    taken = await take_one(ports)
    await start(ports, taken.lease)
    await crash(ports, taken.lease, max_failures=1)
    letters = await ports.inspector.dead_letters(MODEL, limit=10)
    assert [letter.channel_id for letter in letters] == [accepted.channel_id]
    assert await replay(ports, accepted.channel_id) is not None


async def test_dropped_letter_is_gone_and_dropping_again_says_the_same(ports: Ports) -> None:
    old = (await dead(ports)).job.channel_id
    assert await ports.inspector.drop(old) is True
    assert await ports.inspector.drop(old) is True
    assert await ports.inspector.dead_letters(MODEL, limit=10) == []
    assert await ports.inspector.dead_letter(old) is None
    assert await replay(ports, old) is None
    assert await ports.intake.depth(MODEL) == QueueDepth(0, 0)
    # Its client can still read how it ended.
    state = await ports.intake.state(old)
    assert state is not None
    assert state.status is Status.FAILED
    assert len(await events(ports, old)) == 3


async def test_replayed_letter_can_not_be_dropped(ports: Ports) -> None:
    old = (await dead(ports)).job.channel_id
    await replay(ports, old)
    assert await ports.inspector.drop(old) is False
    assert await ports.intake.depth(MODEL) == QueueDepth(waiting=1, running=0)


async def test_unknown_channels_are_no_dead_letters(ports: Ports) -> None:
    unknown = make_job().channel_id
    assert await ports.inspector.drop(unknown) is False
    assert await replay(ports, unknown) is None
    await enqueue(ports, job := make_job())
    assert await ports.inspector.drop(job.channel_id) is False
    assert await replay(ports, job.channel_id) is None
    assert await ports.intake.depth(MODEL) == QueueDepth(waiting=1, running=0)


async def test_replay_wakes_an_idle_worker(ports: Ports) -> None:
    old = (await dead(ports)).job.channel_id
    assert await take(ports, 1) == []
    waiting = asyncio.create_task(
        ports.source.wait_for_work(MODEL, worker_id="any", timeout_s=LIVENESS_S)
    )
    await replay(ports, old)
    assert await returns_at_once(waiting)


# What Redis keeps


async def test_request_of_a_replayed_or_dropped_letter_is_deleted(redis_store: RedisStore) -> None:
    ports = redis_ports(redis_store)
    replayed, dropped = [(await dead(ports)).job.channel_id for _ in range(2)]
    await replay(ports, replayed)
    await ports.inspector.drop(dropped)
    for channel_id in (replayed, dropped):
        assert not await redis_store.redis.hexists(keys.job(channel_id), "payload")
        assert await redis_store.redis.ttl(keys.job(channel_id)) > 0
    assert await redis_store.redis.exists(keys.dead(MODEL)) == 0


async def test_dropped_letter_is_remembered_as_long_as_any_other_end(
    redis_store: RedisStore,
) -> None:
    ports = redis_ports(redis_store)
    old = (await dead(ports, make_job(result_ttl_s=500.0))).job.channel_id
    assert await redis_store.redis.ttl(keys.job(old)) > 1000
    await ports.inspector.drop(old)
    assert 440 < await redis_store.redis.ttl(keys.job(old)) <= 500
    late = (await dead(ports, make_job(result_ttl_s=70.0))).job.channel_id
    await redis_store.redis.hset(keys.job(late), "finished_at", "1.0")
    await ports.inspector.drop(late)
    assert 50 < await redis_store.redis.ttl(keys.job(late)) <= 60


async def test_letter_too_many_is_forgotten_with_its_request(
    redis_store: RedisStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(script_values, "DEAD_LETTERS_KEPT", 2)
    ports = redis_ports(redis_store)
    order = [(await dead(ports, make_job(result_ttl_s=500.0))).job.channel_id for _ in range(4)]
    letters = await ports.inspector.dead_letters(MODEL, limit=10)
    assert [letter.channel_id for letter in letters] == order[:1:-1]
    for channel_id in order[:2]:
        assert await ports.inspector.dead_letter(channel_id) is None
        assert not await redis_store.redis.hexists(keys.job(channel_id), "payload")
        assert 0 < await redis_store.redis.ttl(keys.job(channel_id)) <= 500


async def test_letters_whose_state_expired_leave_the_list(redis_store: RedisStore) -> None:
    ports = redis_ports(redis_store)
    order = [(await dead(ports)).job.channel_id for _ in range(4)]
    for channel_id in order[:2]:
        await redis_store.redis.delete(keys.job(channel_id))
    assert (await ports.inspector.queue(MODEL, top_keys=5)).dead_letters == 2
    letters = await ports.inspector.dead_letters(MODEL, limit=10)
    assert [letter.channel_id for letter in letters] == order[:1:-1]
    assert await redis_store.redis.llen(keys.dead(MODEL)) == 2
    assert await replay(ports, order[0]) is None


async def test_replay_whose_own_end_is_forgotten_queues_nothing(redis_store: RedisStore) -> None:
    ports = redis_ports(redis_store)
    old = (await dead(ports)).job.channel_id
    accepted = await replay(ports, old)
    assert accepted is not None
    taken = await take_one(ports)
    await finish(ports, taken.lease, 2)
    await redis_store.redis.delete(keys.job(accepted.channel_id))
    assert await replay(ports, old) is None
    assert await ports.intake.depth(MODEL) == QueueDepth(0, 0)


async def test_letter_of_another_version_is_kept_though_it_cannot_be_replayed(
    redis_store: RedisStore,
) -> None:
    ports = redis_ports(redis_store)
    old = (await dead(ports)).job.channel_id
    await redis_store.redis.hset(keys.job(old), "payload", '{"shape":"of tomorrow"}')
    with pytest.raises(Unreadable):
        await replay(ports, old)
    assert await ports.inspector.dead_letter(old) is not None
    assert await ports.inspector.drop(old)


async def test_channels_whose_state_expired_are_left_out(redis_store: RedisStore) -> None:
    ports = redis_ports(redis_store)
    gone, kept = make_job(), make_job()
    await enqueue(ports, gone, kept)
    await redis_store.redis.delete(keys.job(gone.channel_id))
    assert await listed_ids(ports) == [kept.channel_id]
    assert await listed_ids(ports, latest=True) == [kept.channel_id]


async def test_views_change_nothing(redis_store: RedisStore) -> None:
    ports = redis_ports(redis_store)
    letter = await dead(ports)
    await enqueue(ports, *[make_job() for _ in range(5)])
    await take(ports, 2)
    await suspect(ports)
    before = await _dump(redis_store)
    await ports.inspector.queue(MODEL, top_keys=5)
    for which in ChannelFilter:
        for latest in (False, True):
            await listed(ports, which, latest=latest)
    await ports.inspector.dead_letters(MODEL, limit=10)
    await ports.inspector.dead_letter(letter.job.channel_id)
    assert await _dump(redis_store) == before


async def _dump(store: RedisStore) -> dict[bytes, Any]:
    redis: Any = store.redis

    async def content(name: bytes) -> Any:
        # Reads may move a hash's fields about in memory, and a dump has them in that order.
        is_hash = await redis.type(name) == b"hash"
        return await redis.hgetall(name) if is_hash else await redis.dump(name)

    return {name: await content(name) async for name in redis.scan_iter("relais:*")}
