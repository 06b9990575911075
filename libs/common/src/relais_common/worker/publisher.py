"""Sends events to Redis: at once while few come, batched as more do; a stream's first event never waits."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterable, Sequence

import structlog
from prometheus_client import Histogram

from relais_common.jobs.errors import StoreUnavailable
from relais_common.jobs.job import Append, Priority, Verdict
from relais_common.queue.ports import JobSource
from relais_common.runtime.backoff import Backoff
from relais_common.worker.held import LINES_PER_APPEND, HeldJob

log = structlog.get_logger(__name__)

AT_ONCE_PER_S = min(4000, 1600 * (os.cpu_count() or 1))
"""Events per second up to which each is sent as it comes. Sent by itself, an event costs worker, Redis and orchestrator
some 0.1 ms of CPU time in all; together with others of its stream, a small part of that. So it takes a sixth of the
machine's cores at most, and 0.4 of one."""

BATCH_LINE_S = 1.0
"""Pause of batches' lines, which nobody reads meanwhile: so much of them is made again where they change workers."""

BATCH_LINES_BYTES = 256 << 10
"""Events of batches' lines in one call, which nothing else on this Redis can interrupt, `LINES_PER_APPEND` at most."""

MEASURED_S = 0.25
"""Time over which events are counted."""


class Publisher:
    """Makes one call at a time; events that arrive meanwhile wait for the next one.

    While few events come, a call is followed by a pause as long as the call took, so calls become rarer as this process
    or Redis gets busy. While many come, calls are `interval_s` apart. A stream's first event never waits; the others of
    all batches' lines are sent together after `BATCH_LINE_S`, in calls of bounded size, which take along what waits.

    Args:
        interval_s: the longest pause. While many events come, the first one after it flushes pending events;
            without one they are sent after as long again. 0: no call waits.
        sizes: observes how many events a call brought.
    """

    def __init__(
        self, source: JobSource, *, interval_s: float = 0.0, sizes: Histogram | None = None
    ) -> None:
        self._source = source
        self._sizes = sizes
        self._interval_s = interval_s
        self._due: dict[HeldJob, None] = {}
        self._later: dict[HeldJob, None] = {}
        self._of_batches: dict[HeldJob, None] = {}
        self._batch_timer: asyncio.TimerHandle | None = None
        self._wake = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._later_are_due = False
        self._calling = False
        self._not_before_s = 0.0
        self._rate = _Rate()

    def send(self, held: HeldJob) -> None:
        """Schedule this job's unsent events."""
        of_batch = _is_of_batch(held)
        if self._interval_s and not of_batch:
            self._rate.count()
        if held.is_silent or not self._interval_s:
            self._due[held] = None
            self._wake.set()
        elif of_batch and not held.is_far_ahead:
            if not self._of_batches:
                loop = asyncio.get_running_loop()
                self._batch_timer = loop.call_later(BATCH_LINE_S, self._send_of_batches)
            self._of_batches[held] = None
        else:
            self._later[held] = None
            self._schedule()

    def _send_of_batches(self) -> None:
        held_jobs, self._of_batches = self._of_batches, {}
        self._send_at_once(held_jobs)

    def _schedule(self) -> None:
        """Send pending events once the pause is over. The end of a call looks after those that came meanwhile."""
        if self._calling or self._later_are_due or not self._later:
            return
        loop = asyncio.get_running_loop()
        if loop.time() >= self._not_before_s:
            self._send_later_ones()
        elif self._timer is None:
            # With a timer at the end of a long pause, an engine that steps every 12 ms would send one and two in turn.
            patience_s = self._interval_s if self._rate.is_high else 0.0
            self._timer = loop.call_at(self._not_before_s + patience_s, self._send_later_ones)

    def _send_later_ones(self) -> None:
        # Not sent yet, so that others of this turn can join.
        self._later_are_due = True
        self._wake.set()

    def _take_due(self) -> list[tuple[HeldJob, Append]]:
        due, self._due = self._due, {}
        if self._later_are_due or any(map(_is_of_batch, due)):
            self._later_are_due = False
            due |= self._later
            self._later = {}
            self._not_before_s = asyncio.get_running_loop().time() + self._interval_s
            self._stop_timer()
        to_send = [held for held in due if _is_to_send(held)]
        taken = [(held, held.unsent()) for held in to_send if not _is_of_batch(held)]
        return taken + self._take_lines([held for held in to_send if _is_of_batch(held)])

    def _take_lines(self, lines: Sequence[HeldJob]) -> list[tuple[HeldJob, Append]]:
        """Take of batches' lines what fits one call; the others stay due."""
        taken: list[tuple[HeldJob, Append]] = []
        events, size = LINES_PER_APPEND, BATCH_LINES_BYTES
        for number, held in enumerate(lines):
            append = held.unsent(events, size)
            if not append.lines:
                if taken:
                    self._send_at_once(lines[number:])
                    break
                append = held.unsent(1)  # larger alone
            taken.append((held, append))
            events -= len(append.lines)
            size -= sum(map(len, append.lines))
        return taken

    async def _call(self, appends: Sequence[Append]) -> list[Verdict]:
        loop = asyncio.get_running_loop()
        began_s, self._calling = loop.time(), True
        try:
            return await self._source.append(appends)
        finally:
            self._calling = False
            ended_s = loop.time()
            if not self._rate.is_high:
                self._not_before_s = ended_s + min(ended_s - began_s, self._interval_s)
            self._schedule()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    async def run(self) -> None:
        """Send scheduled events for ever."""
        try:
            await self._run()
        finally:
            self._stop_timer()
            if self._batch_timer is not None:
                self._batch_timer.cancel()

    async def _run(self) -> None:
        backoff = Backoff()
        while True:
            await self._wake.wait()
            # Let every generator that is ready in this turn add its event first.
            await asyncio.sleep(0)
            self._wake.clear()
            batch = self._take_due()
            tails = [held.next_seq - 1 for held, _ in batch]
            try:
                verdicts = await self._call([append for _, append in batch])
            except StoreUnavailable:
                log.warning("append_failed", jobs=len(batch))
                self._send_at_once(held for held, _ in batch)
                await backoff.pause()
                continue
            backoff.reset()
            unfinished, events = [], 0
            for (held, append), tail, verdict in zip(batch, tails, verdicts, strict=True):
                held.heed(verdict)
                if verdict.held:
                    events += len(append.lines)
                    if append.emits:
                        held.metrics.published()
                # There were more events than fit one call, or the log became shorter.
                if verdict.tail < tail:
                    unfinished.append(held)
            if batch and self._sizes is not None:
                self._sizes.observe(events)
            self._send_at_once(unfinished)

    def _send_at_once(self, held_jobs: Iterable[HeldJob]) -> None:
        batch = [held for held in held_jobs if _is_to_send(held)]
        self._due.update(dict.fromkeys(batch))
        if batch:
            self._wake.set()


class _Rate:
    """Counts events.

    Attributes:
        is_high: whether they come faster than `AT_ONCE_PER_S`, as far as the last `MEASURED_S` tell.
    """

    def __init__(self) -> None:
        self.is_high = False
        self._count = 0
        self._since_s = 0.0

    def count(self) -> None:
        """Count an event."""
        now_s = time.monotonic()
        self._count += 1
        past_s = now_s - self._since_s
        if past_s >= MEASURED_S:
            self.is_high = self._count > AT_ONCE_PER_S * past_s
            self._count, self._since_s = 0, now_s
        elif self._count > AT_ONCE_PER_S * MEASURED_S:
            self.is_high = True


def _is_of_batch(held: HeldJob) -> bool:
    return held.job.priority is Priority.BATCH


def _is_to_send(held: HeldJob) -> bool:
    return held.has_unsent and not held.is_lost
