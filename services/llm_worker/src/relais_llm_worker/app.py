"""Where the llm worker's parts are joined."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import structlog
from prometheus_client import CollectorRegistry

from relais_common.errors import EngineDead
from relais_common.health import open_health_server
from relais_common.jobs import WorkerState
from relais_common.lifecycle import background, stop_on_signals
from relais_common.metrics.exposition import LoopLag, new_registry
from relais_common.metrics.store import StoreMetrics
from relais_common.reaper import reap_for_ever
from relais_common.redis_store import RedisStore, open_store
from relais_common.worker.consumer import Consumer, ConsumerSettings
from relais_common.worker.heartbeat import beat_for_ever
from relais_common.worker.held import HeldJobs
from relais_common.worker.leases import listen_for_stops, renew_for_ever
from relais_common.worker.metrics import WorkerMetrics
from relais_common.worker.publisher import Publisher
from relais_llm_worker.engine import Engine
from relais_llm_worker.generate import GenerateHandler
from relais_llm_worker.local import LocalModel
from relais_llm_worker.model import Model
from relais_llm_worker.remote.model import Limits
from relais_llm_worker.remote.opening import open_remote_models
from relais_llm_worker.settings import EngineSettings, Settings

log = structlog.get_logger(__name__)


@asynccontextmanager
async def open_models(
    settings: Settings, registry: CollectorRegistry
) -> AsyncIterator[Sequence[Model]]:
    """What this worker serves, by the engine that the settings choose. vLLM is imported only where it is the one.

    Args:
        registry: gets the engine's own metrics, where it has any.
    """
    if settings.remote is not None:
        limits = Limits(settings.max_output_tokens, settings.max_failures)
        async with open_remote_models(settings.remote, limits) as models:
            yield models
        return
    async with open_engine(settings.engine, registry) as engine:
        yield [
            LocalModel(
                engine,
                max_output_tokens=settings.max_output_tokens,
                kv_cache_threshold=settings.kv_cache_threshold,
            )
        ]


@asynccontextmanager
async def open_engine(
    settings: EngineSettings, registry: CollectorRegistry
) -> AsyncIterator[Engine]:
    """An engine in this process."""
    if settings.kind == "deterministic":
        from relais_llm_worker.engine_deterministic import DeterministicEngine

        yield DeterministicEngine(
            settings.served_name,
            max_model_len=settings.max_model_len or 4096,
            max_num_seqs=settings.max_num_seqs,
            tokens_per_s=settings.tokens_per_s,
        )
        return
    from relais_llm_worker.engine_vllm import VllmMetrics, open_vllm_engine

    registry.register(VllmMetrics())
    async with open_vllm_engine(settings) as engine:
        yield engine


async def run(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT, then drain.

    Raises:
        ExceptionGroup: of `EngineDead` or of a loop's failure, once every job was handed back.
    """
    stop = asyncio.Event()
    models: Sequence[Model] = ()

    async def ready() -> str | None:
        if stop.is_set():
            return "draining"
        if not models:
            return "the model is loading"
        reasons = [model.status().not_ready for model in models]
        return None if None in reasons else "; ".join(filter(None, reasons))

    registry = new_registry("relais-llm-worker")
    async with open_health_server(
        settings.health_host, settings.health_port, ready, registry
    ) as port:
        log.info("worker_starting", worker_id=settings.worker_id, health_port=port)
        with stop_on_signals(stop):
            async with (
                open_models(settings, registry) as models,
                open_store(settings.redis) as plain_store,
                background(LoopLag(registry).run()),
                asyncio.TaskGroup() as group,
            ):
                store = StoreMetrics(registry).around(plain_store)
                metrics = WorkerMetrics(registry, [model.name for model in models])
                several = len(models) > 1
                for model in models:
                    group.create_task(_serve(settings, model, several, store, metrics, stop))
    log.info("worker_stopped")


async def _serve(
    settings: Settings,
    model: Model,
    one_of_several: bool,
    store: RedisStore,
    metrics: WorkerMetrics,
    stop: asyncio.Event,
) -> None:
    """Serve one model's queue until `stop`, then drain it."""
    # The registry knows a worker by its id, and each by one model.
    worker_id = f"{settings.worker_id}/{model.name}" if one_of_several else settings.worker_id
    held_jobs = HeldJobs()

    def state() -> WorkerState:
        status = model.status()
        return WorkerState(
            worker_id=worker_id,
            model=model.name,
            capacity=status.capacity,
            running=len(held_jobs),
            draining=stop.is_set(),
            max_model_len=status.max_model_len,
            kv_cache_usage=status.kv_cache_usage,
            not_ready=status.not_ready,
        )

    source = metrics.around(store.source, model.name)
    publisher = Publisher(source)
    handler = GenerateHandler(model, source, store.log, publisher)
    metrics.running.read(lambda: len(held_jobs), model.name)
    metrics.capacity.read(lambda: model.status().capacity, model.name)
    if model.status().kv_cache_usage is not None:
        metrics.kv_cache_usage.read(lambda: model.status().kv_cache_usage or 0.0, model.name)
    metrics.generation_tokens.read(lambda: handler.generated_tokens, model.name)
    consumer = Consumer(
        source,
        handler,
        held_jobs,
        publisher,
        ConsumerSettings(
            model.name, worker_id, settings.lease_s, settings.drain_s, settings.max_failures
        ),
    )
    log.info("worker_ready", model=model.name, capacity=model.status().capacity)
    async with background(
        publisher.run(),
        renew_for_ever(source, held_jobs, publisher, lease_s=settings.lease_s),
        listen_for_stops(source, held_jobs, model.name, lease_s=settings.lease_s),
        beat_for_ever(store.registry, state, every_s=settings.heartbeat_s),
        reap_for_ever(
            store.recovery,
            [model.name],
            every_s=settings.reap_every_s,
            max_failures=settings.max_failures,
            outage_grace_s=settings.lease_s,
        ),
        _watch(model),
    ):
        await consumer.run(stop)


async def _watch(model: Model, every_s: float = 1.0) -> None:
    """An idle engine that dies is noticed too."""
    while True:
        await asyncio.sleep(every_s)
        try:
            await model.check_health()
        except EngineDead:
            log.error("engine_dead")
            raise
