"""The loop between the outbox and the sink: what waits, what is tried again, what is set aside."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

import pytest
from prometheus_client import CollectorRegistry

from relais_common.jobs.errors import StoreUnavailable
from relais_common.jobs.job import StopReason
from relais_common.jobs.records import StoredAnswer
from relais_common.jobs.traces import Trace
from relais_common.queue.ports import TraceOutbox
from relais_orchestrator.metrics.traces import TraceMetrics
from relais_orchestrator.tracing.sink import Outcome, SinkUnavailable
from relais_orchestrator.tracing.writer import BATCH, TraceWriter
from relais_testing.builders import MODEL, make_job
from relais_testing.faults import Faults
from relais_testing.memory import MemoryStore
from relais_testing.owned import end_task
from relais_testing.ports import memory_ports
from relais_testing.scrape import Scraped, read
from relais_testing.traced import enqueue_traced
from relais_testing.waiting import wait_until

OTHER = "other"


class Sink:
    """Keeps traces in a list.

    Attributes:
        away: while True, nothing is taken.
        refuses, postpones: channel ids.
        tries: calls so far.
    """

    def __init__(self) -> None:
        self.kept: list[str] = []
        self.away = False
        self.refuses: set[str] = set()
        self.postpones: set[str] = set()
        self.tries = 0

    async def write(self, traces: Sequence[Trace]) -> Outcome:
        self.tries += 1
        if self.away:
            raise SinkUnavailable("away")
        ids = [trace.channel_id for trace in traces]
        self.kept += [one for one in ids if one not in self.refuses | self.postpones]
        return Outcome(
            refused={at: "no" for at, one in enumerate(ids) if one in self.refuses},
            postponed={at: "later" for at, one in enumerate(ids) if one in self.postpones},
        )


class Answers:
    """Keeps answers, or says why not."""

    def __init__(self) -> None:
        self.kept: list[StoredAnswer] = []
        self.away = False

    async def keep(self, answers: Sequence[StoredAnswer]) -> None:
        if answers and self.away:
            raise SinkUnavailable("away")
        self.kept += answers


class Desk:
    """A writer over a store in memory and a sink in memory."""

    def __init__(self) -> None:
        self.store = MemoryStore()
        self.sink = Sink()
        self.answers = Answers()
        self.faults = Faults()
        self.registry = CollectorRegistry()
        self.writer = self.another()

    def another(self, *, every_s: float = 0.001) -> TraceWriter:
        outbox: TraceOutbox = self.faults.around(self.store)
        return TraceWriter(
            outbox,
            self.sink,
            self.answers,
            [MODEL, OTHER],
            TraceMetrics(CollectorRegistry(), [MODEL, OTHER])
            if hasattr(self, "writer")
            else TraceMetrics(self.registry, [MODEL, OTHER]),
            name="w",
            every_s=every_s,
            claim_after_s=60.0,
        )

    async def end_some(self, number: int, model: str = MODEL) -> list[str]:
        jobs = [make_job(model=model) for _ in range(number)]
        await enqueue_traced(memory_ports(self.store), *jobs)
        for job in jobs:
            await self.store.cancel(job.channel_id, StopReason.CLIENT)
        return [job.channel_id for job in jobs]

    async def waiting(self, model: str = MODEL) -> int:
        return (await self.store.inspector.queue(model, top_keys=0)).waiting_traces

    def shown(self) -> Scraped:
        return read(self.registry)


@pytest.fixture
def desk() -> Desk:
    return Desk()


async def test_traces_of_every_model_are_written_and_forgotten(desk: Desk) -> None:
    ids = await desk.end_some(3) + await desk.end_some(2, OTHER)
    assert not await desk.writer.write_waiting()
    assert desk.sink.kept == ids
    assert (await desk.waiting(), await desk.waiting(OTHER)) == (0, 0)
    assert desk.shown().of("relais_traces_written_total", model_name=OTHER) == 2


async def test_a_backlog_is_written_batch_after_batch(desk: Desk) -> None:
    ids = await desk.end_some(2 * BATCH + 1)
    assert await desk.writer.write_waiting()
    await desk.writer.drain(5.0)
    assert desk.sink.kept == ids
    assert desk.sink.tries == 3


async def test_nothing_is_forgotten_before_the_sink_has_it(desk: Desk) -> None:
    ids = await desk.end_some(2)
    desk.sink.away = True
    for _ in range(2):
        with pytest.raises(SinkUnavailable):
            await desk.writer.write_waiting()
    assert await desk.waiting() == 2
    desk.sink.away = False
    await desk.writer.write_waiting()
    assert desk.sink.kept == ids


async def test_what_is_refused_is_set_aside_and_holds_up_nobody(desk: Desk) -> None:
    bad, *good = await desk.end_some(3)
    desk.sink.refuses = {bad}
    await desk.writer.write_waiting()
    assert desk.sink.kept == good
    assert await desk.waiting() == 0
    shown = desk.shown()
    assert shown.of("relais_traces_set_aside_total", model_name=MODEL) == 1
    assert shown.of("relais_traces_written_total", model_name=MODEL) == 2


async def test_what_is_postponed_comes_again_and_the_others_are_written(desk: Desk) -> None:
    late, *others = await desk.end_some(3)
    desk.sink.postpones = {late}
    with pytest.raises(SinkUnavailable):
        await desk.writer.write_waiting()
    assert desk.sink.kept == others
    assert await desk.waiting() == 1
    others = await desk.end_some(1)
    with pytest.raises(SinkUnavailable):
        await desk.writer.write_waiting()
    assert desk.sink.kept[-1:] == others
    desk.sink.postpones = set()
    await desk.writer.write_waiting()
    assert desk.sink.kept[-1] == late


async def test_an_outage_is_waited_out_without_haste(desk: Desk) -> None:
    desk.sink.away = True
    ids = await desk.end_some(2)
    began_s = time.monotonic()
    running = asyncio.create_task(desk.writer.run())
    await wait_until(lambda: desk.sink.tries == 4)
    # After 0.1 s at the least, then 0.2 s, then 0.4 s.
    assert time.monotonic() - began_s >= 0.7
    desk.faults.away = True
    desk.sink.away = False
    await wait_until(lambda: desk.shown().of("relais_trace_write_errors_total", store="redis") >= 1)
    desk.faults.away = False
    await wait_until(lambda: desk.sink.kept == ids)
    assert desk.shown().of("relais_trace_write_errors_total", store="mongodb") >= 1
    await end_task(running)


async def test_an_outage_of_redis_after_the_write_writes_again(desk: Desk) -> None:
    """Which the sink does not mind."""
    (one,) = await desk.end_some(1)

    class Forgetful(MemoryStore):
        async def written(self, model: str, entry_ids: Sequence[str]) -> None:
            raise StoreUnavailable("gone")

    desk.store.written = Forgetful().written  # type: ignore[method-assign]
    for _ in range(2):
        with pytest.raises(StoreUnavailable):
            await desk.writer.write_waiting()
    assert desk.sink.kept == [one, one]


async def test_draining_gives_up_where_a_side_is_away_and_after_its_time(desk: Desk) -> None:
    await desk.end_some(1)
    desk.sink.away = True
    await desk.writer.drain(60.0)
    desk.sink.away = False

    async def never(traces: Sequence[Trace]) -> Outcome:
        await asyncio.Event().wait()
        return Outcome()

    desk.sink.write = never  # type: ignore[method-assign]
    await desk.writer.drain(0.01)
    assert await desk.waiting() == 1
