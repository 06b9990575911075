"""Joins the embedding worker's parts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from prometheus_client import CollectorRegistry

from relais_common.queue.ports import JobSource
from relais_common.worker.consumer import Handler
from relais_common.worker.serving import Desk, Served, run_worker
from relais_common.worker.status import ModelStatus
from relais_embedding_worker.batches import Batches, open_batches
from relais_embedding_worker.embed import EmbedHandler
from relais_embedding_worker.encoder import Encoder, Reranker
from relais_embedding_worker.remote.opening import open_remote
from relais_embedding_worker.rerank import RerankHandler
from relais_embedding_worker.settings import Bounds, EncoderSettings, Settings


def open_encoder(settings: EncoderSettings) -> Encoder:
    """Load the model, which takes seconds. sentence-transformers is imported only if it is chosen."""
    if settings.kind == "deterministic":
        from relais_embedding_worker.encoder_deterministic import DeterministicEncoder

        return DeterministicEncoder(tokens_per_s=settings.tokens_per_s)
    from relais_embedding_worker.encoder_sentence_transformers import open_model

    return open_model(settings)


def handler_of(encoder: Encoder, batches: Batches, source: JobSource, bounds: Bounds) -> Handler:
    """Return what runs the jobs of a model: of a cross-encoder, or of one that gives vectors."""
    if isinstance(encoder, Reranker):
        return RerankHandler(encoder, batches, source, bounds)
    return EmbedHandler(encoder.info, batches, source, bounds)


async def run(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT, then drain. Raises as `run_worker` does."""
    bounds = settings.bounds

    @asynccontextmanager
    async def open_served(_: CollectorRegistry) -> AsyncIterator[Sequence[Served]]:
        if settings.remote is not None:
            max_failures = settings.service.max_failures
            async with open_remote(settings.remote, bounds, max_failures) as models:
                yield models
            return
        encoder = await asyncio.to_thread(open_encoder, settings.encoder)
        async with open_batches(
            encoder,
            max_batch_tokens=bounds.max_batch_tokens or encoder.info.batch_tokens,
            max_wait_s=bounds.max_wait_s,
        ) as batches:

            def make_handler(desk: Desk) -> Handler:
                return handler_of(encoder, batches, desk.source, bounds)

            def status() -> ModelStatus:
                return ModelStatus(bounds.max_requests, max_model_len=encoder.info.max_tokens)

            yield [Served(settings.encoder.served_name, status, _is_well, make_handler)]

    await run_worker("relais-embedding-worker", settings.service, open_served)


async def _is_well() -> None:
    """Do nothing: the encoder has no separate process that could die."""
