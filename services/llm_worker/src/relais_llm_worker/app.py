"""Where the llm worker's parts are joined."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import structlog

from relais_common.errors import EngineDead
from relais_common.health import open_health_server
from relais_common.jobs import WorkerState
from relais_common.lifecycle import background, stop_on_signals
from relais_common.reaper import reap_for_ever
from relais_common.redis_store import open_store
from relais_common.worker.consumer import Consumer, ConsumerSettings
from relais_common.worker.heartbeat import beat_for_ever
from relais_common.worker.held import HeldJobs
from relais_common.worker.leases import listen_for_stops, renew_for_ever
from relais_common.worker.publisher import Publisher
from relais_llm_worker.engine import Engine
from relais_llm_worker.generate import GenerateHandler
from relais_llm_worker.settings import EngineSettings, Settings

log = structlog.get_logger(__name__)


@asynccontextmanager
async def open_engine(settings: EngineSettings) -> AsyncIterator[Engine]:
    """The engine that the settings choose. vLLM is imported only where it is the one."""
    if settings.kind == "deterministic":
        from relais_llm_worker.engine_deterministic import DeterministicEngine

        yield DeterministicEngine(
            settings.served_name,
            max_model_len=settings.max_model_len or 4096,
            max_num_seqs=settings.max_num_seqs,
            tokens_per_s=settings.tokens_per_s,
        )
        return
    from relais_llm_worker.engine_vllm import open_vllm_engine

    async with open_vllm_engine(settings) as engine:
        yield engine


async def run(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT, then drain.

    Raises:
        ExceptionGroup: of `EngineDead` or of a loop's failure, once every job was handed back.
    """
    stop = asyncio.Event()
    not_ready: list[str | None] = ["the model is loading"]

    async def ready() -> str | None:
        return not_ready[0]

    async with open_health_server(settings.health_host, settings.health_port, ready) as port:
        log.info("worker_starting", worker_id=settings.worker_id, health_port=port)
        with stop_on_signals(stop):
            async with open_engine(settings.engine) as engine:
                not_ready[0] = None
                await _serve(settings, engine, stop, not_ready)
    log.info("worker_stopped")


async def _serve(
    settings: Settings, engine: Engine, stop: asyncio.Event, not_ready: list[str | None]
) -> None:
    model = engine.info.name
    held_jobs = HeldJobs()

    def state() -> WorkerState:
        return WorkerState(
            worker_id=settings.worker_id,
            model=model,
            capacity=engine.info.max_num_seqs,
            running=len(held_jobs),
            draining=stop.is_set(),
            max_model_len=engine.info.max_model_len,
            kv_cache_usage=round(engine.load().kv_cache_usage, 4),
        )

    async def note_draining() -> None:
        await stop.wait()
        not_ready[0] = "draining"

    async with open_store(settings.redis) as store:
        publisher = Publisher(store.source)
        handler = GenerateHandler(
            engine,
            store.source,
            store.log,
            publisher,
            max_output_tokens=settings.max_output_tokens,
            kv_cache_threshold=settings.kv_cache_threshold,
        )
        consumer = Consumer(
            store.source,
            handler,
            held_jobs,
            publisher,
            ConsumerSettings(
                model,
                settings.worker_id,
                settings.lease_s,
                settings.drain_s,
                settings.max_failures,
            ),
        )
        log.info("worker_ready", model=model, max_num_seqs=engine.info.max_num_seqs)
        async with background(
            publisher.run(),
            renew_for_ever(store.source, held_jobs, publisher, lease_s=settings.lease_s),
            listen_for_stops(store.source, held_jobs, model, lease_s=settings.lease_s),
            beat_for_ever(store.registry, state, every_s=settings.heartbeat_s),
            reap_for_ever(
                store.recovery,
                [model],
                every_s=settings.reap_every_s,
                max_failures=settings.max_failures,
                outage_grace_s=settings.lease_s,
            ),
            _watch_engine(engine),
            note_draining(),
        ):
            await consumer.run(stop)


async def _watch_engine(engine: Engine, every_s: float = 1.0) -> None:
    """An idle engine that dies is noticed too."""
    while True:
        await asyncio.sleep(every_s)
        try:
            await engine.check_health()
        except EngineDead:
            log.error("engine_dead")
            raise
