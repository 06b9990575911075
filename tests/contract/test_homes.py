"""What begins alike goes to the worker that had it last, where that one has room; nobody waits long for it."""

from __future__ import annotations

import time

import pytest

from relais_common.jobs.chat import Message
from relais_common.jobs.job import Job, Priority
from relais_common.queue import keys
from relais_common.queue.redis_store import RedisStore
from relais_testing.builders import MODEL, make_job
from relais_testing.ports import Ports, redis_ports
from relais_testing.steps import ask, enqueue, finish
from relais_testing.waiting import LIVENESS_S, returns_at_once

RULES = Message("system", "You answer questions about trains, and about nothing else. " * 10)


def ask_about(what: str, key_id: str = "key-a", *earlier: Message) -> Job:
    """Return a chat that begins with the rules."""
    return make_job(key_id, messages=(RULES, *earlier, Message("user", what)))


async def answer(ports: Ports, worker_id: str, job: Job, *, stays_s: float = 0) -> None:
    """Have a worker take and end a job that waits alone; then it has room again."""
    await enqueue(ports, job)
    (taken,) = (await ask(ports, worker_id, stays_s=stays_s)).jobs
    assert taken.job.channel_id == job.channel_id
    await finish(ports, taken.lease, taken.tail + 1)
    await ask(ports, worker_id)


@pytest.fixture
async def at_b(ports: Ports) -> Ports:
    """Workers a and b have room; b has answered a chat that begins with the rules."""
    await answer(ports, "b", ask_about("Où est la gare ?"))
    await ask(ports, "a")
    return ports


async def test_another_worker_leaves_it_to_its_home(at_b: Ports) -> None:
    await enqueue(at_b, ask_about("Et le quai ?"))
    take = await ask(at_b, "a")
    assert (take.jobs, take.left, take.left_at_home) == ((), False, True)
    assert len((await ask(at_b, "b")).jobs) == 1


async def test_the_longest_beginning_counts(at_b: Ports) -> None:
    await answer(at_b, "b", ask_about("Un horaire ?"))
    await answer(at_b, "a", ask_about("Un billet ?"))
    earlier = (Message("user", "Un horaire ?"), Message("assistant", "À midi."))
    await enqueue(at_b, ask_about("Et demain ?", "key-a", *earlier))
    assert (await ask(at_b, "a")).jobs == ()
    assert len((await ask(at_b, "b")).jobs) == 1


async def test_it_is_at_home_where_it_was_last(at_b: Ports) -> None:
    await answer(at_b, "a", ask_about("Un billet ?"))
    await enqueue(at_b, ask_about("Et le quai ?"))
    assert len((await ask(at_b, "a")).jobs) == 1


async def test_nobody_waits_longer_than_that(at_b: Ports) -> None:
    await enqueue(at_b, ask_about("Et le quai ?"))
    assert (await ask(at_b, "a")).jobs == ()
    assert len((await ask(at_b, "a", waited=1, stays_s=0)).jobs) == 1


async def test_a_home_without_room_is_not_waited_for(at_b: Ports) -> None:
    await ask(at_b, "b", held=8, room=0)
    await enqueue(at_b, ask_about("Et le quai ?"))
    assert len((await ask(at_b, "a")).jobs) == 1


async def test_a_home_that_holds_far_more_than_the_others_is_not_waited_for(at_b: Ports) -> None:
    await ask(at_b, "b", held=3)
    await enqueue(at_b, ask_about("Et le quai ?"))
    # Two each would be even; it may have half as much again, and one more.
    assert (await ask(at_b, "a")).jobs == ()
    await ask(at_b, "b", held=5)
    assert len((await ask(at_b, "a")).jobs) == 1


async def test_a_home_takes_half_as_much_again_as_its_share(at_b: Ports) -> None:
    await enqueue(at_b, *[ask_about(f"Le quai {n} ?") for n in range(8)])
    assert len((await ask(at_b, "b")).jobs) == 7
    assert len((await ask(at_b, "a")).jobs) == 1


async def test_past_its_share_it_takes_what_is_at_home_there_alone(at_b: Ports) -> None:
    await enqueue(at_b, *[ask_about(f"Le quai {n} ?") for n in range(4)])
    await enqueue(at_b, *[make_job("key-b") for _ in range(4)])
    jobs = [one.job.key_id for one in (await ask(at_b, "b")).jobs]
    assert (len(jobs), jobs.count("key-b")) == (6, 2)


async def test_other_keys_do_not_wait_behind_it(at_b: Ports) -> None:
    await enqueue(at_b, ask_about("Et le quai ?"), make_job("key-b"))
    assert [one.job.key_id for one in (await ask(at_b, "a")).jobs] == ["key-b"]
    assert [one.job.key_id for one in (await ask(at_b, "b")).jobs] == ["key-a"]


async def test_past_its_share_it_takes_nothing_of_a_lower_priority(at_b: Ports) -> None:
    await enqueue(at_b, *[make_job("key-b", priority=Priority.HIGH) for _ in range(8)])
    await enqueue(at_b, *[ask_about(f"Le quai {n} ?") for n in range(4)])
    jobs = (await ask(at_b, "b")).jobs
    assert [one.job.priority for one in jobs] == [Priority.HIGH] * 6


async def test_what_begins_like_nothing_is_anyone_s(at_b: Ports) -> None:
    await enqueue(at_b, make_job())
    assert len((await ask(at_b, "a")).jobs) == 1


async def test_a_new_job_wakes_its_home(at_b: Ports) -> None:
    await enqueue(at_b, ask_about("Et le quai ?"))
    before_s = time.monotonic()
    await at_b.source.wait_for_work(MODEL, worker_id="a", timeout_s=0.1)
    assert time.monotonic() - before_s >= 0.1
    waiting = at_b.source.wait_for_work(MODEL, worker_id="b", timeout_s=LIVENESS_S)
    assert await returns_at_once(waiting)


async def test_a_home_that_does_not_come_is_not_all_that_is_woken(at_b: Ports) -> None:
    await enqueue(at_b, ask_about("Et le quai ?"), ask_about("Et le train ?"))
    waiting = at_b.source.wait_for_work(MODEL, worker_id="a", timeout_s=LIVENESS_S)
    assert await returns_at_once(waiting)


async def test_what_is_left_wakes_its_home(at_b: Ports) -> None:
    await enqueue(at_b, ask_about("Et le quai ?"))
    await at_b.source.wait_for_work(MODEL, worker_id="b", timeout_s=LIVENESS_S)
    await ask(at_b, "a")
    waiting = at_b.source.wait_for_work(MODEL, worker_id="b", timeout_s=LIVENESS_S)
    assert await returns_at_once(waiting)


async def test_a_worker_that_takes_all_is_not_woken_again(at_b: Ports) -> None:
    await enqueue(at_b, *[ask_about(f"Le quai {n} ?") for n in range(3)])
    await ask(at_b, "b", waited=None)
    before_s = time.monotonic()
    await at_b.source.wait_for_work(MODEL, worker_id="b", timeout_s=0.1)
    assert time.monotonic() - before_s >= 0.1


async def test_a_job_that_comes_back_is_at_home_where_it_was(at_b: Ports) -> None:
    await enqueue(at_b, ask_about("Et le quai ?"))
    (taken,) = (await ask(at_b, "b")).jobs
    await at_b.source.release([taken.lease])
    await ask(at_b, "b", room=0)  # as a worker that stops
    assert len((await ask(at_b, "a")).jobs) == 1


async def test_a_turn_without_a_lane_holds_up_nobody(redis_store: RedisStore) -> None:
    ports, redis = redis_ports(redis_store), redis_store.redis
    await ask(ports, "b")
    await redis.rpush(keys.turns(MODEL, "normal"), "key-b")
    await enqueue(ports, make_job())
    assert len((await ask(ports, "a")).jobs) == 1


async def test_what_is_remembered_is_bounded(redis_store: RedisStore) -> None:
    ports, redis = redis_ports(redis_store), redis_store.redis
    await redis.hset(keys.homes(MODEL), mapping={f"{n:016x}": "b" for n in range(4096)})
    await answer(ports, "b", ask_about("Où est la gare ?"))
    assert await redis.hlen(keys.homes(MODEL)) == 0
    assert await redis.hlen(keys.older_homes(MODEL)) >= 4096
    assert 0 < await redis.ttl(keys.older_homes(MODEL)) <= 3600
    await ask(ports, "a")
    await enqueue(ports, ask_about("Et le quai ?"))
    assert (await ask(ports, "a")).jobs == ()
