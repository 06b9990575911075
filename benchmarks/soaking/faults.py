"""What is done to the fleet, and when: drawn from a seed, one fault after another."""

from __future__ import annotations

import asyncio
import random
import signal
from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, fields
from functools import partial
from typing import Any

from benchmarks.soaking.fleet import Fleet, Place
from relais_common.runtime.lifecycle import pause

Strike = Callable[[], Coroutine[Any, Any, None] | None]


@dataclass(frozen=True, slots=True)
class Weights:
    """How often each fault is drawn, in relation to the others; 0 for never."""

    kill_worker: int = 30
    freeze_worker: int = 20
    drain_worker: int = 14
    kill_orchestrator: int = 12
    freeze_orchestrator: int = 8
    drain_orchestrator: int = 5
    kill_redis: int = 8
    freeze_redis: int = 3
    kill_database: int = 6

    @classmethod
    def only(cls, **weights: int) -> Weights:
        """Return these weights, and 0 for every other fault."""
        return cls(**{**dict.fromkeys((one.name for one in fields(cls)), 0), **weights})


WORKERS_ONLY = Weights.only(kill_worker=3, drain_worker=1)


class Faults:
    """Strikes the fleet. Somebody else of the same kind always serves on.

    Args:
        lease_s: of the workers; a frozen one stays so for longer.

    Attributes:
        done: how often each fault was carried out.
    """

    def __init__(
        self, fleet: Fleet, weights: Weights, *, lease_s: float, rng: random.Random
    ) -> None:
        self.done: Counter[str] = Counter()
        self._fleet = fleet
        self._weights = weights
        self._lease_s = lease_s
        self._rng = rng

    async def run(self, every_s: float, stop: asyncio.Event) -> None:
        """A fault every so often, until `stop`; those under way come to their end."""
        loop = asyncio.get_running_loop()
        at_s = loop.time()
        async with asyncio.TaskGroup() as group:
            while True:
                at_s += every_s
                if await pause(stop, max(0.0, at_s - loop.time())):
                    return
                possible = self._possible()
                if not possible:
                    continue
                names = [name for name, _ in possible]
                weights = [getattr(self._weights, name) for name in names]
                name, strike = self._rng.choices(possible, weights)[0]
                self.done[name] += 1
                lasting = strike()
                if lasting is not None:
                    group.create_task(lasting)

    def _possible(self) -> list[tuple[str, Strike]]:
        found: list[tuple[str, Strike]] = []
        lease_s, uniform = self._lease_s, self._rng.uniform

        def add(name: str, strike: Strike) -> None:
            if getattr(self._weights, name) > 0:
                found.append((name, strike))

        for kind, places, freeze_s in (
            ("worker", self._fleet.workers, (1.2 * lease_s, 2.5 * lease_s)),
            ("orchestrator", self._fleet.fronts, (0.3, 3.0)),
        ):
            able = [place for place in places if place.able]
            # One cannot be told from a crash of all: that is another test.
            if len(able) < 2:
                continue
            if mortal := [place for place in able if place.mortal]:
                add(f"kill_{kind}", partial(self._end, mortal, signal.SIGKILL))
                add(f"drain_{kind}", partial(self._end, mortal, signal.SIGTERM))
            add(f"freeze_{kind}", partial(self._freeze, able, freeze_s))
        if not self._fleet.redis_lock.locked():
            add("kill_redis", lambda: self._fleet.restart_redis(uniform(0.0, 2.0)))
            add("freeze_redis", lambda: self._fleet.freeze_redis(uniform(0.5, 3.0)))
        if not self._fleet.database_lock.locked():
            add("kill_database", lambda: self._fleet.restart_database(uniform(0.0, 4.0)))
        return found

    async def _freeze(self, among: list[Place], seconds: tuple[float, float]) -> None:
        await self._rng.choice(among).freeze(self._rng.uniform(*seconds))

    def _end(self, among: list[Place], number: signal.Signals) -> None:
        self._rng.choice(among).end(number)
