"""What is seen from outside meanwhile: the victims' answers, memory, lag of the loops, log files."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict, replace

import aiohttp
import orjson
import psutil

from benchmarks.attacking.keys import VECTORS, VICTIM
from benchmarks.attacking.stack import Stack
from benchmarks.attacking.victim import KINDS, Options, Probe
from relais_common.runtime.lifecycle import background
from relais_testing.keys import key_of
from relais_testing.scrape import Scraped
from relais_testing.waiting import wait_until

SAMPLE_EVERY_S = 0.2
START_TIMEOUT_S = 60.0
PATIENCE_S = 10.0
"""After which a probe without an answer counts as an error."""
LAG = "relais_event_loop_lag_seconds"


class Watch:
    """All that was seen of one stack.

    Attributes:
        probes: what victims asked, by number.
        memory: bytes of each process and all below it, now.
        peak: the most since `forget_peak`.
    """

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.probes: dict[int, Probe] = {}
        self.memory: dict[str, int] = {}
        self.peak: dict[str, int] = {}

    def forget_peak(self) -> None:
        self.peak = dict(self.memory)

    def is_under_way(self) -> bool:
        """Whether each kind of probe has had an answer."""
        answered = {one.kind for one in self.probes.values() if one.took_s is not None}
        return bool(self.memory) and answered == set(KINDS)

    def between(self, begin_s: float, end_s: float) -> list[Probe]:
        """What was asked then; what has no answer yet took until now, and was lost if that is long."""
        now_s = time.monotonic()
        return [
            one if one.took_s is not None else _unanswered(one, now_s - one.began_s)
            for one in self.probes.values()
            if begin_s <= one.began_s < end_s
        ]

    async def lag(self) -> dict[str, Lag]:
        """Of every loop, since it started."""
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=120)) as session:
            found = {}
            for name in self.stack.ours:
                with suppress(aiohttp.ClientError, TimeoutError):
                    url = f"{self.stack.processes[name].url}/metrics"
                    async with session.get(url) as response:
                        found[name] = Lag(Scraped(await response.text()))
            return found

    async def _sample(self) -> None:
        while True:
            self.memory = await asyncio.to_thread(_memory, self.stack.pids)
            for name, size in self.memory.items():
                self.peak[name] = max(size, self.peak.get(name, 0))
            await asyncio.sleep(SAMPLE_EVERY_S)


class Lag:
    """One look at a process's `/metrics`.

    Attributes:
        buckets: how often a timer was late by at most so much.
        series: of all metrics together.
    """

    def __init__(self, scraped: Scraped) -> None:
        self.series = len(scraped.samples)
        self.buckets = {
            float(one.labels["le"]): one.value
            for one in scraped.samples
            if one.name == f"{LAG}_bucket"
        }

    def since(self, before: Lag) -> float:
        """The bound of the bucket that the latest timer is in; 0 where none was timed."""
        bounds = sorted(self.buckets)
        total = self.buckets[bounds[-1]] - before.buckets[bounds[-1]]
        for bound in bounds:
            if self.buckets[bound] - before.buckets[bound] >= total:
                return bound if total else 0.0
        return bounds[-1]


def _unanswered(probe: Probe, took_s: float) -> Probe:
    return replace(probe, took_s=took_s, error="no answer yet" if took_s > PATIENCE_S else None)


def _memory(pids: dict[str, int]) -> dict[str, int]:
    found = {}
    for name, pid in pids.items():
        with suppress(psutil.Error):
            process = psutil.Process(pid)
            found[name] = sum(
                one.memory_info().rss for one in (process, *process.children(recursive=True))
            )
    return found


@asynccontextmanager
async def watching(stack: Stack, *, pace: float = 1.0) -> AsyncIterator[Watch]:
    """Victims ask and memory is weighed while the context lasts."""
    watch = Watch(stack)
    options = Options(
        fronts=tuple(stack.urls()),
        key=key_of(VICTIM),
        model=stack.model,
        vectors=VECTORS,
        pace=pace,
    )
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "benchmarks.attacking.victim"),
        orjson.dumps(asdict(options)).decode(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )

    async def note() -> None:
        assert process.stdout is not None
        async for line in process.stdout:
            probe = Probe(**orjson.loads(line))
            watch.probes[probe.number] = probe

    try:
        async with background(note(), watch._sample()):
            await wait_until(watch.is_under_way, START_TIMEOUT_S)
            yield watch
    finally:
        process.kill()
        await process.wait()
