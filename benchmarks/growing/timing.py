"""What a call costs in Redis and at its caller."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable
from statistics import fmean
from typing import Any

from redis.asyncio import Redis

Call = Callable[[], Awaitable[Any]]


def typical(values: list[float]) -> float:
    """The mean of all but the slowest tenth: what other work on the machine adds is not the call's."""
    return fmean(sorted(values)[: max(1, len(values) * 9 // 10)])


class Stopwatch:
    """Times calls under a name. Redis's own time is from its command statistics: no other client may be at work."""

    def __init__(self, redis: Redis) -> None:
        self._redis: Any = redis
        self._in_redis: dict[str, list[float]] = defaultdict(list)
        self._at_caller: dict[str, list[float]] = defaultdict(list)

    async def time(self, name: str, command: str, calls: Iterable[Call]) -> list[Any]:
        """Their answers, one after the other. `command` is what each of them has Redis do."""
        answers = []
        await self._redis.config_resetstat()
        for call in calls:
            began_s = time.perf_counter()
            answers.append(await call())
            self._at_caller[name].append(time.perf_counter() - began_s)
        told = (await self._redis.info("commandstats"))[f"cmdstat_{command}"]
        self._in_redis[name].append(told["usec"] / told["calls"])
        return answers

    def read(self) -> tuple[dict[str, float], dict[str, float]]:
        """Microseconds of a call by name: in Redis, of one command, and at the caller. Both begin anew."""
        in_redis = {name: typical(each) for name, each in self._in_redis.items()}
        at_caller = {name: typical(each) * 1e6 for name, each in self._at_caller.items()}
        self._in_redis.clear()
        self._at_caller.clear()
        return in_redis, at_caller
