"""Sending events: all that came up in one turn of the event loop goes to Redis in one call."""

from __future__ import annotations

import asyncio

import structlog

from relais_common.backoff import Backoff
from relais_common.errors import StoreUnavailable
from relais_common.ports import JobSource
from relais_common.worker.held import HeldJob

log = structlog.get_logger(__name__)


class Publisher:
    """One call under way at a time; what comes up meanwhile waits for the next one."""

    def __init__(self, source: JobSource) -> None:
        self._source = source
        self._dirty: dict[HeldJob, None] = {}
        self._wake = asyncio.Event()

    def send(self, held: HeldJob) -> None:
        """Have this job's unsent events sent soon."""
        self._dirty[held] = None
        self._wake.set()

    async def run(self) -> None:
        backoff = Backoff()
        while True:
            await self._wake.wait()
            # Let every generator that is ready in this turn add its event first.
            await asyncio.sleep(0)
            self._wake.clear()
            batch, self._dirty = (
                [held for held in self._dirty if held.has_unsent and not held.is_lost],
                {},
            )
            try:
                verdicts = await self._source.append([held.unsent() for held in batch])
            except StoreUnavailable:
                log.warning("append_postponed", jobs=len(batch))
                self._keep(batch)
                await backoff.pause()
                continue
            backoff.reset()
            for held, verdict in zip(batch, verdicts, strict=True):
                held.heed(verdict)
            self._keep([held for held in batch if held.has_unsent and not held.is_lost])

    def _keep(self, batch: list[HeldJob]) -> None:
        for held in batch:
            self.send(held)
