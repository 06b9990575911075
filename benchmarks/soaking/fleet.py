"""Redis, a database, orchestrators and workers as processes; whatever dies is started again a moment later."""

from __future__ import annotations

import asyncio
import random
import signal
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import aiohttp
import psutil

from relais_testing.mongo import MongoServer
from relais_testing.processes import ServiceProcess
from relais_testing.valkey import ValkeyServer
from relais_testing.waiting import wait_until

START_TIMEOUT_S = 180.0
LIFETIME_S = 24 * 3600.0


@dataclass(eq=False)
class Place:
    """Where one service runs, and its successors after it.

    Attributes:
        mortal: False where the process is to live through: its memory is watched, it may only be frozen.
        exits_owed: exit codes that a fault asked for and that have not come yet.
        surprises: exits that nobody asked for.
    """

    service: str
    number: int
    mortal: bool
    process: ServiceProcess | None = None
    ready: bool = False
    frozen: bool = False
    starts: int = 0
    exits_owed: set[int] = field(default_factory=set)
    surprises: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        return f"{self.service}-{self.number}"

    @property
    def able(self) -> bool:
        """Whether it can serve right now."""
        return self.ready and not self.frozen

    def end(self, number: signal.Signals) -> None:
        """Kill the process, or have it drain; it is replaced."""
        assert self.process is not None
        self.ready = False
        self.exits_owed.add(0 if number is signal.SIGTERM else -number)
        self.process.signal(number)

    async def freeze(self, seconds: float) -> None:
        """SIGSTOP for so long."""
        assert self.process is not None
        process, self.frozen = self.process, True
        process.signal(signal.SIGSTOP)
        try:
            await asyncio.sleep(seconds)
        finally:
            process.signal(signal.SIGCONT)
            self.frozen = False


class Fleet:
    """One Redis, one database for traces, some orchestrators, some workers.

    Args:
        folder: of every process's log file.
        settings: by service; what its processes are started with.
        immortal: services of which the first process is never ended.
    """

    def __init__(
        self,
        redis: ValkeyServer,
        database: MongoServer,
        folder: Path,
        *,
        fronts: int,
        workers: int,
        settings: Mapping[str, dict[str, str]],
        immortal: frozenset[str],
        rng: random.Random,
    ) -> None:
        self.redis = redis
        self.database = database
        self.folder = folder
        self.fronts = self._places("orchestrator", fronts, immortal)
        self.workers = self._places("llm_worker", workers, immortal)
        self.redis_lock = asyncio.Lock()
        self.database_lock = asyncio.Lock()
        self._settings = settings
        self._rng = rng

    @staticmethod
    def _places(service: str, count: int, immortal: frozenset[str]) -> list[Place]:
        return [
            Place(service, number, number > 0 or service not in immortal) for number in range(count)
        ]

    @property
    def places(self) -> list[Place]:
        return self.fronts + self.workers

    @property
    def surprises(self) -> list[str]:
        """Processes that ended otherwise than a fault asked for."""
        return [line for place in self.places for line in place.surprises]

    def front_url(self, rng: random.Random) -> str:
        """Some orchestrator's address; whether it answers is for the client to find out."""
        return rng.choice(self.urls())

    def urls(self) -> list[str]:
        """Of all orchestrators that were started last."""
        return [place.process.url for place in self.fronts if place.process is not None]

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Inside, every place has a process, or gets one soon."""
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=2)) as session:
            tasks = [asyncio.create_task(self._keep(place, session)) for place in self.places]
            try:
                await self.all_ready(tasks)
                yield
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.wait(tasks)
                for place in self.places:
                    if place.process is not None:
                        place.process.kill()
                for task in tasks:
                    if not task.cancelled():
                        task.result()

    async def all_ready(self, tasks: list[asyncio.Task[None]] | None = None) -> None:
        """Wait until every process serves.

        Raises:
            TimeoutError: one does not.
        """
        async with asyncio.timeout(START_TIMEOUT_S):
            while not all(place.able for place in self.places):
                for task in tasks or ():
                    if task.done():
                        task.result()
                await asyncio.sleep(0.1)

    async def restart_redis(self, down_s: float) -> None:
        """kill -9; back on the same port and file after so long."""
        async with self.redis_lock:
            await asyncio.to_thread(self.redis.kill)
            await asyncio.sleep(down_s)
            await asyncio.to_thread(self.redis.start)

    async def restart_database(self, down_s: float) -> None:
        """kill -9; back on the same port and files after so long."""
        async with self.database_lock:
            await asyncio.to_thread(self.database.kill)
            await asyncio.sleep(down_s)
            await asyncio.to_thread(self.database.start)

    async def freeze_redis(self, seconds: float) -> None:
        """SIGSTOP for so long."""
        async with self.redis_lock:
            process = psutil.Process(self.redis.pid)
            process.suspend()
            try:
                await asyncio.sleep(seconds)
            finally:
                process.resume()

    async def _keep(self, place: Place, session: aiohttp.ClientSession) -> None:
        while True:
            process = place.process = self._launch(place)
            if await self._becomes_ready(process, session):
                place.ready = True
            await wait_until(partial(_has_ended, process), LIFETIME_S, every_s=0.05)
            place.ready = False
            if process.exit_code not in place.exits_owed:
                place.surprises.append(f"{place.name} exit {process.exit_code}: {process.log_path}")
            place.exits_owed.clear()
            await asyncio.sleep(self._rng.uniform(0.1, 0.8))

    def _launch(self, place: Place) -> ServiceProcess:
        place.starts += 1
        ports = {"orchestrator": "API_PORT", "llm_worker": "HEALTH_PORT"}
        return ServiceProcess(
            f"relais_{place.service}",
            ports[place.service],
            self.folder / f"{place.name}-{place.starts}.log",
            self._settings[place.service],
        )

    async def _becomes_ready(self, process: ServiceProcess, session: aiohttp.ClientSession) -> bool:
        while process.exit_code is None:
            with suppress(aiohttp.ClientError, TimeoutError):
                async with session.get(f"{process.url}/readyz") as response:
                    if response.status == 200:
                        return True
            await asyncio.sleep(0.1)
        return False


def _has_ended(process: ServiceProcess) -> bool:
    return process.exit_code is not None
