"""The same batch twice on one fleet: undisturbed, and while every kind of process is killed."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
import psutil

from benchmarks.servers import peak_bytes_of_all
from benchmarks.soaking import audit
from benchmarks.soaking.faults import Faults, Weights
from benchmarks.soaking.fleet import Fleet
from benchmarks.soaking.running import open_fleet
from relais_common.runtime.lifecycle import background
from relais_testing.batches import ENDED, BatchClient, encode, line
from relais_testing.process_stack import DETERMINISTIC, MODEL, QUICK

T = TypeVar("T")

LEASE_S = 2.0
STACK = {**QUICK, "LEASE_S": str(LEASE_S), "DRAIN_S": "1", "BATCH_LEASE_S": "3"}
KILLS = Weights.only(kill_worker=1, kill_orchestrator=1, kill_redis=1, kill_database=1)
PATIENCE_S = 60.0
LOOK_EVERY_S = 0.2
PROGRESS_S = 10.0
URL = "/v1/completions"
AWAY = (aiohttp.ClientError, TimeoutError, OSError, AssertionError)
"""What a client gets while an orchestrator or the database is down."""


@dataclass(frozen=True, slots=True)
class Ran:
    """How a batch went.

    Attributes:
        answers: by `custom_id`, all lines of the output file with that name: status and what is the same in each run.
        took_s: from its creation to its end.
    """

    status: str
    counts: dict[str, int]
    answers: dict[str, list[Any]]
    took_s: float


@dataclass(frozen=True, slots=True)
class Killed:
    """Both runs.

    Attributes:
        kills: how often each kind of process was killed.
        peak_bytes: of the largest orchestrator; idle_bytes: of one before any batch.
        errors: in the logs, by name. surprises: processes that ended by themselves.
    """

    lines: int
    calm: Ran
    struck: Ran
    kills: Counter[str]
    idle_bytes: int
    peak_bytes: int
    errors: Counter[str]
    surprises: list[str]

    def wrong(self) -> Iterator[str]:
        """Lines that are missing, doubled or different, each with its reason."""
        for number in range(self.lines):
            name = f"r-{number}"
            expected, found = self.calm.answers.get(name, []), self.struck.answers.get(name, [])
            if len(expected) != 1 or len(found) != 1:
                yield f"{name}: {len(expected)} results undisturbed, {len(found)} under kills"
            elif expected != found:
                yield f"{name}: {expected} undisturbed, {found} under kills"
        strangers = self.calm.answers.keys() | self.struck.answers.keys()
        yield from sorted(strangers - {f"r-{number}" for number in range(self.lines)})


async def run_twice(
    *, lines: int, tokens: int, every_s: float, seed: int, keep_logs: Path | None
) -> Killed:
    """Two orchestrators and two workers; the kills are drawn from the seed."""
    rng = random.Random(f"{seed}/kills")
    content = encode(_requests(lines, tokens))
    async with open_fleet(
        fronts=2,
        workers=2,
        settings={
            "orchestrator": STACK,
            "llm_worker": {**STACK, **DETERMINISTIC, "VLLM_MAX_NUM_SEQS": "64"},
        },
        immortal=frozenset(),
        rng=rng,
        keep_logs=keep_logs,
    ) as fleet:
        faults = Faults(fleet, KILLS, lease_s=LEASE_S, rng=rng)
        peaks = _Peaks(fleet)
        idle = peaks.look()
        timeout = aiohttp.ClientTimeout(total=PATIENCE_S)
        async with background(peaks.watch()), aiohttp.ClientSession(timeout=timeout) as session:
            client = _Client(fleet, session, rng)
            calm = await client.run(content)
            struck = await client.run(content, lambda: _struck(fleet, faults, every_s))
        errors = await asyncio.to_thread(audit.errors, fleet.folder)
        return Killed(lines, calm, struck, faults.done, idle, peaks.most, errors, fleet.surprises)


def _requests(lines: int, tokens: int) -> Iterator[dict[str, Any]]:
    for number in range(lines):
        body = {"model": MODEL, "prompt": f"line {number}", "max_tokens": tokens}
        yield line(number, url=URL, body=body)


@asynccontextmanager
async def _struck(fleet: Fleet, faults: Faults, every_s: float) -> AsyncIterator[None]:
    """Inside, processes are killed; afterwards all are there again."""
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        group.create_task(faults.run(every_s, stop))
        yield
        stop.set()
    await fleet.all_ready()


class _Client:
    """Runs batches through whichever orchestrator answers."""

    def __init__(self, fleet: Fleet, session: aiohttp.ClientSession, rng: random.Random) -> None:
        self._fleet = fleet
        self._session = session
        self._rng = rng

    async def run(
        self,
        content: bytes,
        meanwhile: Callable[[], AbstractAsyncContextManager[None]] = nullcontext,
    ) -> Ran:
        """Return the whole of a batch; it runs inside `meanwhile`."""
        batch_id = await self._at(lambda client: client.create(content, URL))
        began_s = time.monotonic()
        async with meanwhile():
            batch = await self._ended(batch_id)
            took_s = time.monotonic() - began_s
        answers: dict[str, list[Any]] = {}
        for file_id in (batch["output_file_id"], batch["error_file_id"]):
            for one in await self._at(partial(BatchClient.content, file_id=file_id)):
                answers.setdefault(one["custom_id"], []).append(_answer(one))
        return Ran(batch["status"], batch["request_counts"], answers, took_s)

    async def _ended(self, batch_id: str) -> dict[str, Any]:
        began_s = said_s = time.monotonic()
        while True:
            batch = await self._at(partial(BatchClient.show, batch_id=batch_id))
            if batch["status"] in ENDED:
                return batch
            now_s = time.monotonic()
            if now_s > said_s + PROGRESS_S:
                said_s, counts = now_s, batch["request_counts"]
                print(f"{now_s - began_s:6.0f} s  {batch['status']}  {counts}", flush=True)
            await asyncio.sleep(LOOK_EVERY_S)

    async def _at(self, call: Callable[[BatchClient], Awaitable[T]]) -> T:
        while True:
            client = BatchClient(self._session, self._fleet.front_url(self._rng))
            try:
                return await call(client)
            except AWAY:
                await asyncio.sleep(LOOK_EVERY_S)


def _answer(result: dict[str, Any]) -> Any:
    """Return what must be equal in each run: neither ids nor times."""
    response = result["response"]
    if response is None:
        return result["error"]
    body = response["body"]
    return [response["status_code"], body.get("choices"), body.get("usage"), body.get("error")]


class _Peaks:
    """The peak of every orchestrator, with all processes below it, up to its last look before a kill."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self.most = 0

    def look(self) -> int:
        """Return the largest orchestrator's peak since it started."""
        found = [0]
        for place in self._fleet.fronts:
            if place.process is not None:
                with suppress(psutil.Error, OSError):
                    found.append(peak_bytes_of_all(place.process.pid))
        self.most = max(self.most, *found)
        return max(found)

    async def watch(self) -> None:
        while True:
            await asyncio.to_thread(self.look)
            await asyncio.sleep(LOOK_EVERY_S)
