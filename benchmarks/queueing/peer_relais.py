"""Relais's queue: every loop of a worker but an engine, and a client that listens as an orchestrator does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager

from prometheus_client import CollectorRegistry

from benchmarks.queueing.shapes import Submit
from relais_common.jobs.channels import new_channel_id
from relais_common.jobs.events import Completed, Terminal, Timings, Usage
from relais_common.jobs.job import Job, Operation, WorkerState
from relais_common.jobs.traces import Tracing
from relais_common.queue.codec import TERMINAL_NAMES, decode_event, split_event
from relais_common.queue.reaper import reap_for_ever
from relais_common.queue.redis_store import RedisSettings, RedisStore, open_store
from relais_common.runtime.lifecycle import background
from relais_common.runtime.logs import setup_logs
from relais_common.worker.consumer import Consumer, ConsumerSettings
from relais_common.worker.heartbeat import beat_for_ever
from relais_common.worker.held import HeldJob, HeldJobs
from relais_common.worker.leases import listen_for_stops, renew_for_ever
from relais_common.worker.metrics import WorkerMetrics
from relais_common.worker.publisher import Publisher

MODEL, WORKER_ID = "noop", "worker-1"
LEASE_S, REAP_EVERY_S, MAX_FAILURES = 30.0, 1.0, 3
ANSWER = Completed("stop", Usage(0, 0), Timings(queue_s=0, prefill_s=0, decode_s=0))


class Noop:
    """A handler whose jobs have ended as they begin."""

    def __init__(self, places: int) -> None:
        self._places = places

    def room(self, held: int) -> int:
        return self._places - held

    def enough_of(self, _: Collection[HeldJob]) -> tuple[str, ...]:
        return ()

    def can_preempt(self, _: HeldJob) -> bool:
        return False

    async def handle(self, _: HeldJob) -> Terminal:
        return ANSWER


async def work(url: str, places: int) -> None:
    setup_logs("worker", level="warning")  # what the others' are, as long as nobody sets them up
    async with open_store(RedisSettings(url)) as store:
        held_jobs, publisher = HeldJobs(), Publisher(store.source)
        consumer = Consumer(
            store.source,
            Noop(places),
            held_jobs,
            ConsumerSettings(MODEL, WORKER_ID, LEASE_S, drain_s=1, max_failures=MAX_FAILURES),
            WorkerMetrics(CollectorRegistry(), [MODEL]),
        )
        async with background(
            publisher.run(),
            renew_for_ever(store.source, held_jobs, publisher, lease_s=LEASE_S),
            listen_for_stops(store.source, held_jobs, MODEL, lease_s=LEASE_S),
            beat_for_ever(
                store.registry,
                lambda: WorkerState(WORKER_ID, MODEL, places, len(held_jobs)),
                every_s=5,
            ),
            reap_for_ever(
                store.recovery,
                MODEL,
                every_s=REAP_EVERY_S,
                max_failures=MAX_FAILURES,
                outage_grace_s=LEASE_S,
            ),
        ):
            await consumer.run(asyncio.Event())


async def _submit(store: RedisStore) -> None:
    channel_id = new_channel_id(MODEL)
    job = Job(
        channel_id=channel_id,
        key_id="client",
        model=MODEL,
        operation=Operation.TEXT_COMPLETION,
        prompt="",
        deadline_s=600,
        log_ttl_s=600,
        result_ttl_s=600,
    )
    # Heard from the first event on, so the log need only be read after a gap.
    async with store.live.subscribe(channel_id) as events:
        # Nobody takes the traces on to a database here.
        await store.intake.enqueue(
            job, max_waiting=100_000, tracing=Tracing(max_waiting=10_000_000)
        )
        while True:
            batch = await events.next(15)
            lines = (
                batch.lines
                if batch is not None
                else await store.log.read(channel_id, after=0, limit=10)
            )
            if lines and split_event(lines[-1])[0] in TERMINAL_NAMES:
                assert decode_event(lines[-1]) == ANSWER
                return


@asynccontextmanager
async def connect(url: str) -> AsyncIterator[Submit]:
    async with open_store(RedisSettings(url)) as store:

        async def submit() -> None:
            await _submit(store)

        yield submit
