"""A whole llm worker in this process: the deterministic engine, and every loop of the real one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count

from relais_common.jobs.job import WorkerState
from relais_common.queue.ports import EventLog, JobSource, Recovery, WorkerRegistry
from relais_common.queue.reaper import reap_for_ever
from relais_common.queue.redis_store import RedisSettings, open_store
from relais_common.runtime.lifecycle import background
from relais_common.worker.consumer import Consumer, ConsumerSettings
from relais_common.worker.heartbeat import beat_for_ever
from relais_common.worker.held import HeldJobs
from relais_common.worker.leases import listen_for_stops, renew_for_ever
from relais_common.worker.publisher import Publisher
from relais_llm_worker.engines.engine_deterministic import DeterministicEngine
from relais_llm_worker.engines.local import LocalModel
from relais_llm_worker.generate import GenerateHandler
from relais_testing.builders import MODEL
from relais_testing.faults import Faults
from relais_testing.owned import end_task

LEASE_S = 1.0
REAP_EVERY_S = 0.1
MAX_FAILURES = 3
_numbers = count(1)


class Worker:
    """One worker.

    Attributes:
        faults: `faults.away = True` cuts it off from its store.
    """

    def __init__(
        self,
        source: JobSource,
        recovery: Recovery,
        registry: WorkerRegistry,
        event_log: EventLog,
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
        self._lease_s = lease_s
        self._source = self.faults.around(source)
        self._recovery = self.faults.around(recovery)
        self._registry = self.faults.around(registry)
        self._publisher = Publisher(self._source, interval_s=stream_interval_s)
        handler = GenerateHandler(
            LocalModel(
                self.engine,
                max_output_tokens=max_output_tokens,
                kv_cache_threshold=1.1,
                stall_s=3600,
            ),
            self._source,
            self.faults.around(event_log),
            self._publisher,
        )
        self._consumer = Consumer(
            self._source,
            handler,
            self.held_jobs,
            ConsumerSettings(model, self.worker_id, lease_s, drain_s, MAX_FAILURES),
        )
        self._task: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """As the service's `app.py` joins them."""
        model = self.engine.info.name
        async with background(
            self._publisher.run(),
            renew_for_ever(self._source, self.held_jobs, self._publisher, lease_s=self._lease_s),
            listen_for_stops(self._source, self.held_jobs, model, lease_s=self._lease_s),
            beat_for_ever(self._registry, self._state, every_s=0.5),
            reap_for_ever(
                self._recovery,
                [model],
                every_s=REAP_EVERY_S,
                max_failures=MAX_FAILURES,
                outage_grace_s=self._lease_s,
            ),
        ):
            await self._consumer.run(self.stop)

    def start(self) -> None:
        self._task = asyncio.create_task(self.run())

    async def drain(self) -> None:
        """As after SIGTERM."""
        self.stop.set()
        await self.ended()

    async def ended(self) -> None:
        """Wait for its end; raises what it ended with."""
        if self._task is not None:
            await self._task

    async def kill(self) -> None:
        """As after SIGKILL: from one moment to the next nothing of it reaches the store."""
        self.faults.away = True
        if self._task is not None:
            await end_task(self._task)

    def _state(self) -> WorkerState:
        return WorkerState(
            self.worker_id,
            self.engine.info.name,
            self.engine.info.max_num_seqs,
            len(self.held_jobs),
            max_model_len=self.engine.info.max_model_len,
        )


@asynccontextmanager
async def open_worker(
    redis_url: str,
    *,
    model: str = MODEL,
    max_num_seqs: int = 8,
    max_model_len: int = 100_000,
    max_output_tokens: int = 50_000,
    tokens_per_s: float = 0.0,
    lease_s: float = LEASE_S,
    drain_s: float = 5.0,
) -> AsyncIterator[Worker]:
    """A worker at work on a Redis. Killed at the end, unless it was drained."""
    async with open_store(RedisSettings(redis_url)) as store:
        worker = Worker(
            store.source,
            store.recovery,
            store.registry,
            store.log,
            model=model,
            max_num_seqs=max_num_seqs,
            max_model_len=max_model_len,
            max_output_tokens=max_output_tokens,
            tokens_per_s=tokens_per_s,
            lease_s=lease_s,
            drain_s=drain_s,
        )
        worker.start()
        try:
            yield worker
        finally:
            await worker.kill()
