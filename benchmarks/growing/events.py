"""What a step costs with more and more events in a channel's log, and how much memory each of them takes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any

from benchmarks.growing.fit import Curve
from benchmarks.growing.jobs import DONE, LEASE_S, LINE, grow_log, make_job, submit, take
from benchmarks.growing.timing import Stopwatch
from relais_common.jobs.job import Append, Lease
from relais_common.queue import keys
from relais_common.queue.redis_store import RedisStore

PAGE = 1000
TOGETHER = 20
NAMES = {
    "append": "append at the tail",
    "resume": "resume 10 before the end",
    "middle": "resume in the middle, 10 events",
    "whole": "read all in pages of 1,000, per event",
    "renew": "renew the lease (measures the log)",
    "finish": "end it, 4 bytes of text per event",
    "compacted": "read the result after that, without log",
}
"""By what is measured."""


async def measure(
    store: RedisStore, sizes: Sequence[int], *, rounds: int, calls: int
) -> tuple[list[Curve], list[Curve], list[Curve]]:
    """Microseconds in Redis, microseconds at the caller, and bytes of an event."""
    redis: Any = store.redis
    in_redis: dict[str, list[list[float]]] = defaultdict(lambda: [[] for _ in range(rounds)])
    at_caller: dict[str, list[list[float]]] = defaultdict(lambda: [[] for _ in range(rounds)])
    per_event: list[float] = []
    for size in sizes:
        for number in range(rounds):
            await redis.flushall()
            bench = _Bench(store, size, calls)
            used = await bench.prepare()
            if number == 0:
                per_event.append(used / size)
            redis_us, caller_us = await bench.run()
            for name in NAMES:
                in_redis[name][number].append(redis_us[name])
                at_caller[name][number].append(caller_us[name])
    return (
        _curves(in_redis, sizes),
        _curves(at_caller, sizes),
        [Curve("a log's event", "bytes", tuple(sizes), (tuple(per_event),))],
    )


class _Bench:
    """Logs of one size: many short ones, or few long ones, so that the calls do not change their size much."""

    def __init__(self, store: RedisStore, size: int, calls: int) -> None:
        self._store = store
        self._size = size
        self._calls = calls
        self._logs = max(1, min(calls, 20_000 // size))
        self._leases: list[Lease] = []
        self._tails: list[int] = []
        self._watch = Stopwatch(store.redis)
        self._in_redis: dict[str, float] = {}
        self._at_caller: dict[str, float] = {}

    async def prepare(self) -> float:
        """Bytes that Redis uses for one log."""
        await submit(self._store, [make_job(number) for number in range(self._logs)])
        taken = await take(self._store, self._logs)
        for one in taken:
            await grow_log(self._store, one.lease, one.tail, self._size)
        self._leases = [one.lease for one in taken]
        self._tails = [self._size] * len(taken)
        used = await self._store.redis.memory_usage(keys.log(taken[0].job.channel_id), samples=0)
        return float(used or 0)

    async def run(self) -> tuple[dict[str, float], dict[str, float]]:
        read, source = self._store.log.read, self._store.source
        await self._measure("append", "evalsha", self._append, self._calls)
        await self._measure(
            "resume",
            "lrange",
            lambda at: read(self._leases[at].channel_id, after=self._tails[at] - 10, limit=PAGE),
            self._calls,
        )
        await self._measure(
            "middle",
            "lrange",
            lambda at: read(self._leases[at].channel_id, after=self._size // 2, limit=10),
            self._calls,
        )
        await self._measure("whole", "lrange", self._read_all, self._logs, per=self._size)
        await self._measure(
            "renew",
            "evalsha",
            lambda at: source.renew([self._leases[at]], lease_s=LEASE_S),
            self._calls,
        )
        text = "mot " * self._size
        await self._measure(
            "finish",
            "evalsha",
            lambda at: source.finish(
                self._leases[at], first_seq=self._tails[at] + 1, terminal=DONE, text=text
            ),
            self._logs,
        )
        await self._measure(
            "compacted",
            "evalsha",
            lambda at: self._store.intake.state(self._leases[at].channel_id),
            self._calls,
        )
        return self._in_redis, self._at_caller

    async def _measure(
        self,
        name: str,
        command: str,
        call: Callable[[int], Awaitable[Any]],
        count: int,
        *,
        per: int = 0,
    ) -> None:
        """`per`: events that one call reads, over some commands."""
        for begin in range(0, count, TOGETHER):
            some = range(begin, min(begin + TOGETHER, count))
            calls = [partial(call, number % self._logs) for number in some]
            await self._watch.time(name, command, calls)
        in_redis, at_caller = self._watch.read()
        pages = -(-self._size // PAGE)
        self._in_redis[name] = in_redis[name] * pages / per if per else in_redis[name]
        self._at_caller[name] = at_caller[name] / per if per else at_caller[name]

    async def _append(self, at: int) -> None:
        await self._store.source.append(
            [Append(self._leases[at], self._tails[at] + 1, (LINE,), True)]
        )
        self._tails[at] += 1

    async def _read_all(self, at: int) -> None:
        # One more page than there is ends it in the services; here the size is known.
        for after in range(0, self._size, PAGE):
            await self._store.log.read(self._leases[at].channel_id, after=after, limit=PAGE)


def _curves(values: dict[str, list[list[float]]], sizes: Sequence[int]) -> list[Curve]:
    return [
        Curve(NAMES[name], "µs", tuple(sizes), tuple(map(tuple, values[name]))) for name in NAMES
    ]
