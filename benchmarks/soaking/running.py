"""One run: a fleet, clients that ask, faults meanwhile, and the audit once all is quiet."""

from __future__ import annotations

import asyncio
import random
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path

import aiohttp

from benchmarks.soaking import audit
from benchmarks.soaking.asks import Ask
from benchmarks.soaking.client import Client, Outcome
from benchmarks.soaking.faults import Faults
from benchmarks.soaking.fleet import Fleet
from benchmarks.soaking.report import Soaked
from relais_common.runtime.lifecycle import background
from relais_testing.mongo import MongoServer
from relais_testing.valkey import ValkeyServer

PROGRESS_S = 10.0


@asynccontextmanager
async def open_fleet(
    *,
    fronts: int,
    workers: int,
    settings: dict[str, dict[str, str]],
    immortal: frozenset[str],
    rng: random.Random,
    appendfsync: str = "always",
    keep_logs: Path | None = None,
) -> AsyncIterator[Fleet]:
    """A stack on a Redis with an append-only file, and a database that synchronises each commit."""
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        logs = keep_logs or Path(folder) / "logs"
        data = Path(folder) / "redis"
        logs.mkdir(parents=True, exist_ok=True)
        data.mkdir()
        redis = stack.enter_context(
            ValkeyServer(data, appendonly=True, options={"appendfsync": appendfsync})
        )
        database = stack.enter_context(MongoServer(Path(folder) / "database", sync=True))
        urls = {"REDIS_URL": redis.url, "MONGODB_URL": database.url}
        fleet = Fleet(
            redis,
            database,
            logs,
            fronts=fronts,
            workers=workers,
            settings={name: {**values, **urls} for name, values in settings.items()},
            immortal=immortal,
            rng=rng,
        )
        async with fleet.running():
            yield fleet


async def ask_all(
    fleet: Fleet,
    make_ask: Callable[[int], Ask],
    *,
    clients: int,
    seed: int,
    enough: Callable[[int], bool],
    outcomes: list[Outcome],
    label: str = "soak",
) -> None:
    """So many clients at once, each with one request at a time, until `enough` says so of the next number."""
    asked = 0

    async def one(number: int, session: aiohttp.ClientSession) -> None:
        nonlocal asked
        client = Client(session, fleet, f"{label}/{seed}", random.Random(f"{seed}/client/{number}"))
        while not enough(asked):
            asked += 1
            outcomes.append(await client.ask(make_ask(asked - 1)))

    connector = aiohttp.TCPConnector(limit=0, force_close=True)
    async with aiohttp.ClientSession(connector=connector) as session, asyncio.TaskGroup() as group:
        for number in range(clients):
            group.create_task(one(number, session))


class Run:
    """Faults, progress and memory of one run, and its end.

    Attributes:
        outcomes: of the requests that have ended.
        before: of those that ended before it began.
    """

    def __init__(self, fleet: Fleet, faults: Faults, before: Sequence[Outcome] = ()) -> None:
        self.outcomes: list[Outcome] = []
        self.before = before
        self._fleet = fleet
        self._faults = faults
        self._memory = audit.MemoryWatch(fleet)
        self._began_s = time.monotonic()
        self._took_s = 0.0

    @property
    def at_s(self) -> float:
        """Seconds since the beginning."""
        return time.monotonic() - self._began_s

    @asynccontextmanager
    async def under_faults(self, every_s: float) -> AsyncIterator[None]:
        """Inside, the fleet is struck and watched. At the end it is whole again."""
        stop = asyncio.Event()
        async with background(self._watch()), asyncio.TaskGroup() as group:
            group.create_task(self._faults.run(every_s, stop))
            yield
            stop.set()
        self._took_s = self.at_s
        await self._fleet.all_ready()

    async def audited(
        self,
        seed: int,
        *,
        expire_within_s: float | None,
        strangers: frozenset[str] = frozenset(),
    ) -> Soaked:
        """Look at what there is, once everything should have expired; at once where None is given.

        Args:
            strangers: ids of keys whose requests were not made by this run's clients.
        """
        url = self._fleet.redis.url
        ends = {one.channel_id: one.status for one in [*self.before, *self.outcomes]}
        traces = await audit.traces(url, self._fleet.database.url, ends, strangers)
        remains: list[str] = []
        if expire_within_s is not None:
            end_s = self.at_s + expire_within_s
            while True:
                remains = await asyncio.to_thread(audit.expiring, url)
                if not remains or self.at_s >= end_s:
                    break
                await asyncio.sleep(1)
        remains += await asyncio.to_thread(audit.leftovers, url)
        folder = self._fleet.folder
        return Soaked(
            seed=seed,
            seconds=self._took_s,
            faults=self._faults.done,
            outcomes=self.outcomes,
            continued=audit.continued(folder),
            errors=audit.errors(folder),
            surprises=self._fleet.surprises,
            remains=remains,
            traces=traces,
            memory=self._memory.growth,
        )

    async def _watch(self) -> None:
        said_s = 0.0
        while True:
            await asyncio.to_thread(self._memory.sample, self.at_s)
            if self.at_s >= said_s + PROGRESS_S:
                said_s = self.at_s
                continued = await asyncio.to_thread(audit.continued, self._fleet.folder)
                problems = sum(len(outcome.problems) for outcome in self.outcomes)
                print(
                    f"{self.at_s:6.0f} s  ended {len(self.outcomes):5}  faults {self._faults.done.total():4}"
                    f"  continued {len(continued):4}  problems {problems}",
                    flush=True,
                )
            await asyncio.sleep(1)
