"""Runs a worker service: joins the loops over Redis for any kind of worker."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

import structlog
from prometheus_client import CollectorRegistry

from relais_common.jobs.errors import EngineDead, EngineStuck, SettingsError
from relais_common.jobs.job import WorkerState
from relais_common.queue.client.address import redis_url
from relais_common.queue.metrics import StoreMetrics
from relais_common.queue.ports import EventLog, JobSource, Recovery, WorkerRegistry
from relais_common.queue.reaper import reap_for_ever
from relais_common.queue.redis_store import RedisSettings, open_store
from relais_common.queue.shards import Shards
from relais_common.runtime import environ, garbage, heap, logs
from relais_common.runtime.environ import Environ
from relais_common.runtime.health import open_health_server
from relais_common.runtime.lifecycle import background, stop_on_signals
from relais_common.runtime.metrics.exposition import LoopLag, new_registry
from relais_common.worker.consumer import Consumer, ConsumerSettings, Handler
from relais_common.worker.heartbeat import beat_for_ever
from relais_common.worker.held import Hands, HeldJobs
from relais_common.worker.leases import listen_for_stops, renew_for_ever
from relais_common.worker.metrics import WorkerMetrics
from relais_common.worker.publisher import Publisher
from relais_common.worker.status import ModelStatus
from relais_common.worker.turns import switch_threads_often

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceSettings:
    """Settings of every worker service.

    Attributes:
        stream_interval_s: interval of the `Publisher`, for workers with streams.
    """

    redis: RedisSettings
    worker_id: str
    lease_s: float
    drain_s: float
    heartbeat_s: float
    reap_every_s: float
    max_failures: int
    health_host: str
    health_port: int
    log_level: str
    log_format: str
    stream_interval_s: float = 0.0


def read_service_settings(env: Environ, *, health_port: int) -> ServiceSettings:
    """Read and validate the settings. Raises SettingsError, which names the setting.

    Args:
        health_port: the default port.
    """
    worker_id = environ.text(env, "WORKER_ID", f"{socket.gethostname()}-{os.getpid()}")
    if any(character.isspace() for character in worker_id):
        raise SettingsError(f"WORKER_ID is {worker_id!r}; it takes no white space")
    return ServiceSettings(
        redis=RedisSettings(url=redis_url(env)),
        worker_id=worker_id,
        lease_s=environ.number(env, "LEASE_S", 6.0, at_least=0.5, at_most=3600),
        drain_s=environ.number(env, "DRAIN_S", 25.0, at_most=3600),
        heartbeat_s=environ.number(env, "HEARTBEAT_S", 2.0, at_least=0.1, at_most=600),
        reap_every_s=environ.number(env, "REAP_EVERY_S", 1.0, at_least=0.05, at_most=600),
        max_failures=environ.integer(env, "MAX_FAILURES", 3, at_least=1),
        health_host=environ.text(env, "HEALTH_HOST", "127.0.0.1"),
        health_port=environ.integer(env, "HEALTH_PORT", health_port, at_most=65535),
        log_level=environ.choice(env, "LOG_LEVEL", "info", logs.LEVELS),
        log_format=environ.choice(env, "LOG_FORMAT", "json", logs.FORMATS),
    )


class WorkerStore(Protocol):
    """The ports that a worker's loops need."""

    @property
    def source(self) -> JobSource: ...

    @property
    def recovery(self) -> Recovery: ...

    @property
    def log(self) -> EventLog: ...

    @property
    def registry(self) -> WorkerRegistry: ...


@dataclass(frozen=True, slots=True)
class Desk:
    """The objects that a handler works with."""

    source: JobSource
    event_log: EventLog
    publisher: Publisher
    metrics: WorkerMetrics
    held_jobs: HeldJobs


@dataclass(frozen=True, slots=True)
class Served:
    """One model of this worker.

    Attributes:
        check_health: raises EngineDead if nothing more can ever be run.
        make_handler: called once for each queue, before its first take.
    """

    name: str
    status: Callable[[], ModelStatus]
    check_health: Callable[[], Awaitable[None]]
    make_handler: Callable[[Desk], Handler]


OpenModels = Callable[[CollectorRegistry], AbstractAsyncContextManager[Sequence[Served]]]
"""Loads the worker's models. The registry receives the engine's own metrics, if any."""


async def run_worker(service: str, settings: ServiceSettings, open_models: OpenModels) -> None:
    """Serve until SIGTERM or SIGINT, then drain.

    Args:
        service: its name, for metrics.

    Raises:
        ExceptionGroup: of `EngineDead` or of a loop's failure, once every job was handed back.
    """
    stop = asyncio.Event()
    models: Sequence[Served] = ()

    async def ready() -> str | None:
        if stop.is_set():
            return "draining"
        if not models:
            return "the model is loading"
        reasons = [model.status().not_ready for model in models]
        return None if None in reasons else "; ".join(filter(None, reasons))

    registry = new_registry(service)
    garbage.relax_gc_thresholds()
    heap.give_back(heap.WORKER_SMALL_BYTES)
    switch_threads_often()
    async with open_health_server(
        settings.health_host, settings.health_port, ready, registry
    ) as port:
        log.info("worker_starting", worker_id=settings.worker_id, health_port=port)
        with stop_on_signals(stop):
            async with (
                open_models(registry) as models,
                open_store(settings.redis, metrics=StoreMetrics(registry)) as store,
                background(LoopLag(registry).run()),
                asyncio.TaskGroup() as group,
            ):
                metrics = WorkerMetrics(registry, [model.name for model in models])
                garbage.freeze_startup_objects()
                several = len(models) > 1
                held: list[HeldJobs] = []
                for model in models:
                    group.create_task(serve(settings, model, several, store, metrics, stop, held))
    log.info("worker_stopped")


async def serve(
    settings: ServiceSettings,
    model: Served,
    one_of_several: bool,
    store: WorkerStore,
    metrics: WorkerMetrics,
    stop: asyncio.Event,
    held_by_all: list[HeldJobs],
) -> None:
    """Serve one model's queues until `stop`, then drain them.

    Args:
        held_by_all: of every model of this worker; receives this one's.
    """
    # The registry identifies a worker by its id, with one model each.
    worker_id = f"{settings.worker_id}/{model.name}" if one_of_several else settings.worker_id
    hands, shards = Hands(), Shards(store.registry, {model.name: 0})

    def state() -> WorkerState:
        status = model.status()
        return WorkerState(
            worker_id=worker_id,
            model=model.name,
            capacity=status.capacity,
            running=hands.places,
            draining=stop.is_set(),
            max_model_len=status.max_model_len,
            kv_cache_usage=status.kv_cache_usage,
            not_ready=status.not_ready,
            parent=status.parent,
            supports_images=status.supports_images,
        )

    async def serve_queue(queue: str) -> None:
        held_jobs = HeldJobs(hands)
        held_by_all.append(held_jobs)
        await _serve_queue(settings, model, queue, worker_id, store, metrics, stop, held_jobs)

    metrics.running.read(lambda: hands.places, model.name)
    metrics.capacity.read(lambda: model.status().capacity, model.name)
    if model.status().kv_cache_usage is not None:
        metrics.kv_cache_usage.read(lambda: model.status().kv_cache_usage or 0.0, model.name)
    log.info("worker_ready", model=model.name, capacity=model.status().capacity)
    async with background(
        shards.run(),
        beat_for_ever(store.registry, state, every_s=settings.heartbeat_s),
        _watch(model, held_by_all),
    ):
        await shards.run_each(serve_queue, stop)


async def _serve_queue(
    settings: ServiceSettings,
    model: Served,
    queue: str,
    worker_id: str,
    store: WorkerStore,
    metrics: WorkerMetrics,
    stop: asyncio.Event,
    held_jobs: HeldJobs,
) -> None:
    source = store.source
    publisher = Publisher(source, interval_s=settings.stream_interval_s, sizes=metrics.batch)
    handler = model.make_handler(Desk(source, store.log, publisher, metrics, held_jobs))
    consumer = Consumer(
        source,
        handler,
        held_jobs,
        ConsumerSettings(
            queue, worker_id, settings.lease_s, settings.drain_s, settings.max_failures
        ),
        metrics,
    )
    async with background(
        publisher.run(),
        renew_for_ever(source, held_jobs, publisher, lease_s=settings.lease_s),
        listen_for_stops(source, held_jobs, queue, lease_s=settings.lease_s),
        reap_for_ever(
            store.recovery,
            queue,
            every_s=settings.reap_every_s,
            max_failures=settings.max_failures,
            outage_grace_s=settings.lease_s,
        ),
    ):
        await consumer.run(stop)


async def _watch(model: Served, held_by_all: Sequence[HeldJobs], every_s: float = 1.0) -> None:
    """Check the engine's health, so that one that dies idle, or is stuck, is noticed too."""
    while True:
        await asyncio.sleep(every_s)
        try:
            await model.check_health()
        except EngineStuck as error:
            # Models may share an engine, and its death ends them all.
            for held_jobs in held_by_all:
                held_jobs.suspicion = error.channel_ids
            raise
        except EngineDead:
            log.error("engine_dead")
            raise
