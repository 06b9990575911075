"""Joins the LLM worker's parts."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from prometheus_client import CollectorRegistry

from relais_common.worker.consumer import Handler
from relais_common.worker.serving import Desk, Served, run_worker
from relais_llm_worker.engine import Engine
from relais_llm_worker.engines.local import models_of
from relais_llm_worker.generate import GenerateHandler
from relais_llm_worker.model import Model
from relais_llm_worker.remote.model import Limits
from relais_llm_worker.remote.opening import open_remote_models
from relais_llm_worker.settings import EngineSettings, Settings


@asynccontextmanager
async def open_models(
    settings: Settings, registry: CollectorRegistry
) -> AsyncIterator[Sequence[Model]]:
    """Open the models of the engine that the settings choose. vLLM is imported only if it is chosen.

    Args:
        registry: receives the engine's own metrics, if any.
    """
    if settings.remote is not None:
        limits = Limits(settings.max_output_tokens, settings.service.max_failures)
        async with open_remote_models(settings.remote, limits, registry) as models:
            yield models
        return
    async with open_engines(settings.engine, registry) as engines:
        yield models_of(
            engines,
            max_output_tokens=settings.max_output_tokens,
            kv_cache_threshold=settings.kv_cache_threshold,
            stall_s=settings.engine.stall_s,
        )


@asynccontextmanager
async def open_engines(
    settings: EngineSettings, registry: CollectorRegistry
) -> AsyncIterator[Sequence[Engine]]:
    """Open an engine in this process, once for each model that it serves."""
    if settings.kind == "deterministic":
        from relais_llm_worker.engines.engine_deterministic import DeterministicEngine

        yield [
            DeterministicEngine(
                settings.served_name,
                max_model_len=settings.max_model_len or 4096,
                max_num_seqs=settings.max_num_seqs,
                tokens_per_s=settings.tokens_per_s,
            )
        ]
        return
    from relais_llm_worker.engines.vllm.metrics import VllmMetrics
    from relais_llm_worker.engines.vllm.starting import open_vllm_engines

    registry.register(VllmMetrics())
    async with open_vllm_engines(settings) as engines:
        yield engines


async def run(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT, then drain. Raises as `run_worker` does."""

    @asynccontextmanager
    async def open_served(registry: CollectorRegistry) -> AsyncIterator[Sequence[Served]]:
        async with open_models(settings, registry) as models:
            yield [served(model) for model in models]

    await run_worker("relais-llm-worker", settings.service, open_served)


def served(model: Model) -> Served:
    """The model as `run_worker` serves it."""

    handlers: list[GenerateHandler] = []

    def make_handler(desk: Desk) -> Handler:
        handler = GenerateHandler(model, desk.source, desk.event_log, desk.publisher)
        handlers.append(handler)
        desk.metrics.tokens.generated.read(
            lambda: sum(one.generated_tokens for one in handlers), model.name
        )
        return handler

    return Served(model.name, model.status, model.check_health, make_handler)
