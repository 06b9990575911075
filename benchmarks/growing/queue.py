"""What a step costs with more and more jobs waiting, and how much memory each of them takes."""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from typing import Any

from benchmarks.growing.fit import Curve
from benchmarks.growing.jobs import MODEL, TOGETHER, make_job, submit, take
from benchmarks.growing.timing import Stopwatch
from relais_common.jobs.job import StopReason
from relais_common.queue.redis_store import RedisStore

SCRIPTS = {
    "enqueue": "enqueue",
    "cancel": "cancel a waiting job",
    "state": "position",
    "take": "take one",
    "release": "hand one back",
    "queue": "operators' view",
}


async def measure(
    store: RedisStore, sizes: Sequence[int], *, rounds: int, calls: int
) -> tuple[list[Curve], list[Curve], tuple[float, float]]:
    """Microseconds in Redis and at the caller; bytes of a waiting job, used and counted, at the greatest size."""
    watch, chance = Stopwatch(store.redis), random.Random(1)
    in_redis: dict[str, list[list[float]]] = defaultdict(lambda: [[] for _ in range(rounds)])
    at_caller: dict[str, list[list[float]]] = defaultdict(lambda: [[] for _ in range(rounds)])
    ids: list[str] = []
    used, counted = empty, _ = await _held(store)
    for size in sizes:
        more = [make_job(number) for number in range(len(ids), size)]
        await submit(store, more)
        ids += [job.channel_id for job in more]
        used, counted = await _held(store)
        for number in range(rounds):
            await _block(store, watch, ids, chance, calls)
            redis_us, caller_us = watch.read()
            for name in SCRIPTS:
                in_redis[name][number].append(redis_us[name])
                at_caller[name][number].append(caller_us[name])
    return (
        _curves(in_redis, sizes, "µs"),
        _curves(at_caller, sizes, "µs"),
        ((used - empty) / sizes[-1], counted / sizes[-1]),
    )


async def longest_cancel(store: RedisStore, sizes: Sequence[int]) -> Curve:
    """The longest of the cancels of half a lane, in Redis: the one that sweeps the other ones out."""
    redis: Any = store.redis
    longest = []
    for size in sizes:
        await redis.flushall()
        # One key and priority: one lane.
        jobs = [make_job(0) for _ in range(size)]
        await submit(store, jobs)
        await redis.config_set("slowlog-max-len", 1000)
        await redis.config_set("slowlog-log-slower-than", 20)
        await redis.slowlog_reset()
        leaving = jobs[: size // 2 + 64]
        for begin in range(0, len(leaving), TOGETHER):
            some = leaving[begin : begin + TOGETHER]
            await asyncio.gather(
                *(store.intake.cancel(job.channel_id, StopReason.CLIENT) for job in some)
            )
        await redis.config_set("slowlog-log-slower-than", -1)
        slow = [entry["duration"] for entry in await redis.slowlog_get(1000)]
        longest.append(float(max(slow, default=20)))
    return Curve("longest cancel", "µs", tuple(sizes), (tuple(longest),))


async def _block(
    store: RedisStore, watch: Stopwatch, ids: list[str], chance: random.Random, calls: int
) -> None:
    intake, source = store.intake, store.source
    # Few at a time where few wait: the queue is to keep its size.
    together = max(1, min(20, len(ids) // 5))
    bounds: dict[str, Any] = {"max_waiting": 10**9, "max_stored_bytes": 1 << 50}
    for begin in range(0, calls, together):
        jobs = [make_job(begin + number) for number in range(together)]
        chance.shuffle(ids)
        gone, ids[:together] = ids[:together], [job.channel_id for job in jobs]
        some = ids[-together:]
        await watch.time(
            "enqueue", "evalsha", [partial(intake.enqueue, job, **bounds) for job in jobs]
        )
        await watch.time(
            "cancel", "evalsha", [partial(intake.cancel, one, StopReason.CLIENT) for one in gone]
        )
        await watch.time("state", "evalsha", [partial(intake.state, one) for one in some])
        taken = await watch.time("take", "evalsha", [partial(take, store, 1)] * together)
        # The last one first: each goes back to the front.
        back = [partial(source.release, [one.lease]) for (one,) in reversed(taken)]
        await watch.time("release", "evalsha", back)
        await watch.time("queue", "evalsha", [partial(store.operations.queue, MODEL, top_keys=5)])


async def _held(store: RedisStore) -> tuple[float, float]:
    """Bytes: as Redis uses them, and as they are counted."""
    view = await store.operations.queue(MODEL, top_keys=0)
    return float((await store.redis.info("memory"))["used_memory"]), float(view.stored_bytes)


def _curves(values: dict[str, list[list[float]]], sizes: Sequence[int], unit: str) -> list[Curve]:
    return [
        Curve(SCRIPTS[name], unit, tuple(sizes), tuple(map(tuple, values[name])))
        for name in SCRIPTS
    ]
