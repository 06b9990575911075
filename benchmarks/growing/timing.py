"""What a call costs in Redis, script by script, and at its caller."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Awaitable, Callable
from hashlib import sha1
from statistics import fmean
from typing import Any

from redis.asyncio import Redis

from relais_common.wire import scripts

MOST_CALLS = 50_000
_NAMES = {
    sha1(scripts.source(name).encode(), usedforsecurity=False).hexdigest(): name
    for name in scripts.NAMES
}


def typical(values: list[float]) -> float:
    """The mean of all but the slowest tenth: what other work on the machine adds is not the call's."""
    return fmean(sorted(values)[: max(1, len(values) * 9 // 10)])


class Stopwatch:
    """Times calls under a name; Redis's own clock adds each script's and command's time in it."""

    def __init__(self, redis: Redis) -> None:
        self._redis: Any = redis
        self._at_caller: dict[str, list[float]] = defaultdict(list)
        self._counting: set[str] = set()

    async def begin(self) -> None:
        """Forget what was timed, and have Redis note every call from now on."""
        self._at_caller.clear()
        await self._redis.config_set("slowlog-max-len", MOST_CALLS)
        await self._redis.config_set("slowlog-log-slower-than", 0)
        await self._redis.slowlog_reset()

    async def time(
        self, name: str, call: Callable[..., Awaitable[Any]], *args: Any, **more: Any
    ) -> Any:
        """The call's answer; its time is kept under this name."""
        began_s = time.perf_counter()
        answer = await call(*args, **more)
        self._at_caller[name].append(time.perf_counter() - began_s)
        return answer

    async def end(self) -> tuple[dict[str, float], dict[str, float]]:
        """Microseconds of a call: in Redis by script or command, and at the caller by name."""
        await self._redis.config_set("slowlog-log-slower-than", -1)
        in_redis: dict[str, list[float]] = defaultdict(list)
        for entry in await self._redis.slowlog_get(MOST_CALLS):
            command, _, rest = entry["command"].decode(errors="replace").partition(" ")
            name = _NAMES.get(rest.partition(" ")[0]) if command.upper() == "EVALSHA" else None
            in_redis[name or command.lower()].append(float(entry["duration"]))
        await self._redis.slowlog_reset()
        at_caller = {name: typical(each) * 1e6 for name, each in self._at_caller.items()}
        return {name: typical(each) for name, each in in_redis.items()}, at_caller
