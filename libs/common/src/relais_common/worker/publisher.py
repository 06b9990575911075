"""Sends events to Redis, batched in one call; a stream's first event is sent at once."""

from __future__ import annotations

import asyncio

import structlog
from prometheus_client import Histogram

from relais_common.jobs.errors import StoreUnavailable
from relais_common.queue.ports import JobSource
from relais_common.runtime.backoff import Backoff
from relais_common.worker.held import LINES_PER_APPEND, HeldJob

log = structlog.get_logger(__name__)


class Publisher:
    """Makes one call at a time; events that arrive meanwhile wait for the next one.

    Args:
        interval_s: shortest time between two calls without a stream's first event. Most of the cost of a token behind
            the engine is per stream and call. The first event after that time flushes pending events; without
            one they are sent after as long again. 0: no call waits.
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
        self._wake = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._later_are_due = False
        self._not_before_s = 0.0

    def send(self, held: HeldJob) -> None:
        """Schedule this job's unsent events."""
        if held.is_silent or not self._interval_s:
            self._due[held] = None
            self._wake.set()
            return
        self._later[held] = None
        if self._later_are_due:
            return
        loop = asyncio.get_running_loop()
        if loop.time() >= self._not_before_s:
            self._send_later_ones()
        elif self._timer is None:
            self._timer = loop.call_at(self._not_before_s + self._interval_s, self._send_later_ones)

    def _send_later_ones(self) -> None:
        # Not sent yet, so that others of this turn can join.
        self._later_are_due = True
        self._wake.set()

    def _take_due(self) -> list[HeldJob]:
        due, self._due = self._due, {}
        if self._later_are_due:
            self._later_are_due = False
            due |= self._later
            self._later = {}
            self._not_before_s = asyncio.get_running_loop().time() + self._interval_s
            self._stop_timer()
        return [held for held in due if _is_to_send(held)]

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

    async def _run(self) -> None:
        backoff = Backoff()
        while True:
            await self._wake.wait()
            # Let every generator that is ready in this turn add its event first.
            await asyncio.sleep(0)
            self._wake.clear()
            batch = self._take_due()
            appends = [held.unsent() for held in batch]
            try:
                verdicts = await self._source.append(appends)
            except StoreUnavailable:
                log.warning("append_failed", jobs=len(batch))
                self._send_at_once(batch)
                await backoff.pause()
                continue
            backoff.reset()
            unfinished, events = [], 0
            for held, append, verdict in zip(batch, appends, verdicts, strict=True):
                held.heed(verdict)
                if verdict.held:
                    events += len(append.lines)
                    if append.emits:
                        held.metrics.published()
                # There were more events than fit one call, or the log became shorter.
                if len(append.lines) == LINES_PER_APPEND or verdict.tail < append.last_seq:
                    unfinished.append(held)
            if batch and self._sizes is not None:
                self._sizes.observe(events)
            self._send_at_once(unfinished)

    def _send_at_once(self, batch: list[HeldJob]) -> None:
        batch = [held for held in batch if _is_to_send(held)]
        self._due.update(dict.fromkeys(batch))
        if batch:
            self._wake.set()


def _is_to_send(held: HeldJob) -> bool:
    return held.has_unsent and not held.is_lost
