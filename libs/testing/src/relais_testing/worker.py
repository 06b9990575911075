"""A whole llm worker in this process: the deterministic engine, and every loop of the real one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from itertools import count
from typing import Any

from prometheus_client import CollectorRegistry

from relais_common.queue.ports import EventLog, JobSource, Recovery, WorkerRegistry
from relais_common.queue.redis_store import RedisSettings, open_store
from relais_common.worker.consumer import Handler
from relais_common.worker.held import HeldJobs
from relais_common.worker.metrics import WorkerMetrics
from relais_common.worker.serving import Desk, ServiceSettings, WorkerStore, serve
from relais_llm_worker.app import served
from relais_llm_worker.engines.engine_deterministic import DeterministicEngine
from relais_llm_worker.engines.local import models_of
from relais_testing.builders import MODEL
from relais_testing.faults import Faults
from relais_testing.owned import end_task
from relais_testing.steps import PAST_S

LEASE_S = 10.0
"""Longer than a busy machine stands still: a worker that lives loses none of its jobs."""
MORTAL_LEASE_S = 1.0
"""For a worker that is to die: so much later another one goes on."""
REAP_EVERY_S = 0.1
MAX_FAILURES = 3
_numbers = count(1)


@dataclass(frozen=True)
class _Store:
    """The ports of a worker, each with its faults."""

    source: JobSource
    recovery: Recovery
    log: EventLog
    registry: WorkerRegistry


class Worker:
    """A worker in this process.

    Attributes:
        faults: `faults.away = True` cuts it off from its store.
    """

    def __init__(
        self,
        store: WorkerStore,
        *,
        model: str = MODEL,
        max_num_seqs: int = 8,
        max_model_len: int = 100_000,
        max_output_tokens: int = 50_000,
        tokens_per_s: float = 0.0,
        lease_s: float = LEASE_S,
        drain_s: float = 5.0,
        stream_interval_s: float = 0.0,
    ) -> None:
        self.worker_id = f"worker-{next(_numbers)}"
        self.faults = Faults()
        self.engine = DeterministicEngine(
            model, max_model_len=max_model_len, max_num_seqs=max_num_seqs, tokens_per_s=tokens_per_s
        )
        self.held_jobs = HeldJobs()
        self.stop = asyncio.Event()
        self._source = store.source
        around = self.faults.around
        self._store = _Store(
            around(store.source), around(store.recovery), around(store.log), around(store.registry)
        )
        self._settings = ServiceSettings(
            redis=RedisSettings(""),
            worker_id=self.worker_id,
            lease_s=lease_s,
            drain_s=drain_s,
            heartbeat_s=0.5,
            reap_every_s=REAP_EVERY_S,
            max_failures=MAX_FAILURES,
            health_host="",
            health_port=0,
            log_level="info",
            log_format="json",
            stream_interval_s=stream_interval_s,
        )
        (local,) = models_of(
            [self.engine], max_output_tokens=max_output_tokens, kv_cache_threshold=1.1, stall_s=3600
        )
        self._model = served(local)
        self._task: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Run it as the service does."""

        def make_handler(desk: Desk) -> Handler:
            self.held_jobs = desk.held_jobs
            return self._model.make_handler(desk)

        model = replace(self._model, make_handler=make_handler)
        metrics = WorkerMetrics(CollectorRegistry(), [model.name])
        await serve(self._settings, model, False, self._store, metrics, self.stop, [])

    def start(self) -> None:
        self._task = asyncio.create_task(self.run())

    async def drain(self) -> None:
        """Drain, as after SIGTERM."""
        self.stop.set()
        await self.ended()

    async def ended(self) -> None:
        """Wait for its end; raises what it ended with."""
        if self._task is not None:
            await self._task

    async def kill(self) -> None:
        """Stop it as SIGKILL does: nothing more of it reaches the store."""
        self.faults.away = True
        if self._task is not None:
            await end_task(self._task)

    async def die(self) -> None:
        """Kill it, and let the leases of its jobs run out, in place of waiting: another worker may go on with them."""
        leases = [held.lease for held in self.held_jobs.all()]
        await self.kill()
        await self._source.renew(leases, lease_s=PAST_S)


@asynccontextmanager
async def open_worker(redis_url: str, **options: Any) -> AsyncIterator[Worker]:
    """Yield a running worker with these options of `Worker`. It is killed at the end, unless it was drained."""
    async with open_store(RedisSettings(redis_url)) as store:
        worker = Worker(store, **options)
        worker.start()
        try:
            yield worker
        finally:
            await worker.kill()
