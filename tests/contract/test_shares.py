"""How workers of one model share its work: each takes what makes it even, and leaves the rest to those with room."""

from __future__ import annotations

from relais_common.queue import keys
from relais_common.queue.ports import TakeRequest
from relais_common.queue.redis_store import RedisStore
from relais_testing.builders import MODEL, make_job
from relais_testing.ports import Ports, redis_ports
from relais_testing.steps import LONG_S, ask, enqueue
from relais_testing.waiting import LIVENESS_S, returns_at_once


async def put(ports: Ports, count: int) -> None:
    await enqueue(ports, *[make_job() for _ in range(count)])


async def shares(ports: Ports, workers: list[str], held: dict[str, int] | None = None) -> list[int]:
    """How many jobs each gets that asks once, in turn."""
    held = held or {}
    return [len((await ask(ports, one, held=held.get(one, 0))).jobs) for one in workers]


async def test_a_lone_worker_takes_all_that_it_has_room_for(ports: Ports) -> None:
    await put(ports, 10)
    take = await ask(ports, "a", room=8)
    assert (len(take.jobs), take.left) == (8, False)


async def test_a_burst_is_shared_by_those_that_waited_for_it(ports: Ports) -> None:
    workers = ["a", "b", "c", "d"]
    assert await shares(ports, workers) == [0, 0, 0, 0]
    await put(ports, 32)
    assert await shares(ports, workers) == [8, 8, 8, 8]


async def test_what_is_more_than_its_share_is_left_and_the_worker_told(ports: Ports) -> None:
    await shares(ports, ["a", "b"])
    await put(ports, 5)
    first, second = await ask(ports, "a"), await ask(ports, "b")
    assert (len(first.jobs), first.left) == (3, True)
    assert (len(second.jobs), second.left) == (2, False)


async def test_a_worker_with_more_than_the_others_leaves_new_work_to_them(ports: Ports) -> None:
    held = {"a": 6, "b": 1}
    await shares(ports, ["a", "b"], held)
    await put(ports, 1)
    take = await ask(ports, "a", held=6)
    assert (take.jobs, take.left) == ((), True)
    assert await shares(ports, ["b"], held) == [1]


async def test_a_share_counts_what_the_others_have_taken_since(ports: Ports) -> None:
    await shares(ports, ["a", "b"])
    await put(ports, 4)
    assert await shares(ports, ["a"]) == [2]
    await put(ports, 2)
    assert await shares(ports, ["b"]) == [3]
    assert len((await ask(ports, "a", held=2)).jobs) == 1


async def test_what_nobody_else_takes_the_worker_may_have_bit_by_bit(ports: Ports) -> None:
    await shares(ports, ["a", "gone", "gone too", "and this one"])
    await put(ports, 32)
    takes = [await ask(ports, "a")]
    while takes[-1].left:
        held = sum(len(take.jobs) for take in takes)
        takes.append(await ask(ports, "a", held=held, waited=len(takes)))
    assert [len(take.jobs) for take in takes] == [8, 6, 10, 8]


async def test_a_worker_without_room_has_no_share(ports: Ports) -> None:
    await put(ports, 4)
    assert len((await ask(ports, "full", room=4)).jobs) == 4
    await put(ports, 6)
    assert await shares(ports, ["a"]) == [6]


async def test_a_worker_that_has_become_full_has_no_share_any_more(ports: Ports) -> None:
    await shares(ports, ["a", "b"])
    await put(ports, 4)
    assert len((await ask(ports, "a", room=2)).jobs) == 2
    await put(ports, 2)
    assert await shares(ports, ["b"]) == [4]


async def test_what_is_left_rings_for_the_others(ports: Ports) -> None:
    await shares(ports, ["a", "b"])
    await put(ports, 2)
    for _ in range(2):  # both rings of the jobs are heard
        await ports.source.wait_for_work(MODEL, worker_id="any", timeout_s=0.05)
    assert (await ask(ports, "a")).left
    assert await returns_at_once(
        ports.source.wait_for_work(MODEL, worker_id="any", timeout_s=LIVENESS_S)
    )


async def test_the_same_call_gets_the_same_share(ports: Ports) -> None:
    await shares(ports, ["a", "b"])
    await put(ports, 4)
    calls = [
        await ports.source.take(
            TakeRequest(
                MODEL, 64, worker_id="a", call_id="lost", lease_s=LONG_S, idle=True, waited=0
            )
        )
        for _ in range(2)
    ]
    first, again = ([one.lease for one in take.jobs] for take in calls)
    assert len(first) == 2
    assert first == again


async def test_workers_that_ask_no_more_are_forgotten(redis_store: RedisStore) -> None:
    ports, redis = redis_ports(redis_store), redis_store.redis
    now_s, _ = await redis.time()
    await redis.hset(keys.takers(MODEL), mapping={"old": f"0 {now_s - 60}", "new": f"0 {now_s}"})
    await put(ports, 4)
    assert await shares(ports, ["a"]) == [2]
    assert sorted(await redis.hkeys(keys.takers(MODEL))) == [b"a", b"new"]
    assert await redis.ttl(keys.takers(MODEL)) > 0
