"""The loop that moves traces from Redis to their sink. Any number of orchestrators can run it."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence

import structlog

from relais_common.jobs.channels import queue_model
from relais_common.jobs.errors import StoreUnavailable
from relais_common.jobs.traces import WaitingTrace
from relais_common.queue.ports import TraceOutbox
from relais_common.runtime.backoff import Backoff
from relais_orchestrator.metrics.traces import TraceMetrics
from relais_orchestrator.tracing.sink import AnswerSink, SinkUnavailable, TraceSink

log = structlog.get_logger(__name__)

BATCH = 200
"""Traces per batch, which take a few milliseconds of the event loop."""

LONGEST_PAUSE_S = 5.0


class TraceWriter:
    """One of the writers that share the work.

    Args:
        answers: takes the answers that are stored.
        queues: of all models; may grow.
        name: unique name of this writer, never reused by another process.
        every_s: how long traces are collected.
        claim_after_s: how long another writer may hold traces before it counts as gone. Longer than a write takes;
            if that writer is alive after all, writing twice changes nothing.
    """

    def __init__(
        self,
        outbox: TraceOutbox,
        sink: TraceSink,
        answers: AnswerSink,
        queues: Sequence[str],
        metrics: TraceMetrics,
        *,
        name: str,
        every_s: float,
        claim_after_s: float,
    ) -> None:
        self._outbox = outbox
        self._sink = sink
        self._answers = answers
        self._queues = queues
        self._metrics = metrics
        self._name = name
        self._every_s = every_s
        self._claim_after_s = claim_after_s
        self._busy = asyncio.Lock()
        self._waits = False

    async def run(self) -> None:
        """Write for ever. An outage of either side causes a delay, and is logged once."""
        backoff = Backoff(initial_s=0.2, longest_s=LONGEST_PAUSE_S)
        while True:
            try:
                more = await self.write_waiting()
            except (StoreUnavailable, SinkUnavailable) as error:
                self._note(error)
                await backoff.pause()
                continue
            self._note(None)
            backoff.reset()
            if not more:
                await asyncio.sleep(self._every_s * random.uniform(0.5, 1.0))

    async def drain(self, timeout_s: float) -> None:
        """Write the traces that wait now. Other orchestrators write what remains."""
        try:
            async with asyncio.timeout(timeout_s):
                while await self.write_waiting():
                    pass
        except (TimeoutError, StoreUnavailable, SinkUnavailable) as error:
            log.warning("trace_drain_failed", error=str(error) or "not done in time")

    async def write_waiting(self) -> bool:
        """Write one batch of each queue; return whether more may wait.

        Raises:
            StoreUnavailable: some queues were not there; of the others a batch was written.
            SinkUnavailable: nothing can be written.
        """
        async with self._busy:
            more, missing = False, None
            for queue in self._queues:
                try:
                    more = await self._write_batch(queue) or more
                except StoreUnavailable as error:
                    missing = missing or error
            if missing is not None:
                raise missing
            return more

    async def _write_batch(self, queue: str) -> bool:
        model = queue_model(queue)
        batch = await self._outbox.collect(
            queue, writer=self._name, limit=BATCH, claim_after_s=self._claim_after_s
        )
        self._metrics.set_aside.of(model).inc(batch.unreadable)
        if not batch.traces:
            return batch.more
        began_s = time.monotonic()
        # First: a trace that is written takes its record out of Redis.
        await self._answers.keep([one.answer for one in batch.traces if one.answer is not None])
        outcome = await self._sink.write([one.trace for one in batch.traces])
        self._metrics.write_seconds.observe(time.monotonic() - began_s)
        written = [
            one.entry_id for at, one in enumerate(batch.traces) if at not in outcome.not_written
        ]
        await self._outbox.written(queue, written)
        self._metrics.written.of(model).inc(len(written))
        await self._set_aside(queue, {batch.traces[at]: why for at, why in outcome.refused.items()})
        if outcome.postponed:
            raise SinkUnavailable(next(iter(outcome.postponed.values())))
        return batch.more

    async def _set_aside(self, queue: str, refused: dict[WaitingTrace, str]) -> None:
        for one, why in refused.items():
            log.error("trace_refused", channel_id=one.trace.channel_id, error=why)
        await self._outbox.set_aside(queue, [one.entry_id for one in refused])
        self._metrics.set_aside.of(queue_model(queue)).inc(len(refused))

    def _note(self, error: Exception | None) -> None:
        if error is None:
            if self._waits:
                log.info("trace_writes_resumed")
            self._waits = False
            return
        self._metrics.errors.of("redis" if isinstance(error, StoreUnavailable) else "mongodb").inc()
        if not self._waits:
            log.warning("trace_write_failed", error=str(error))
        self._waits = True
