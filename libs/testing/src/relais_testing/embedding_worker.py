"""A whole embedding worker in this process: a deterministic model or test servers, and every loop of the real one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import count

from relais_common.queue.redis_store import open_store
from relais_common.runtime.lifecycle import background
from relais_common.worker.consumer import Handler
from relais_common.worker.serving import Desk, Served, ServiceSettings, serve
from relais_common.worker.status import ModelStatus
from relais_embedding_worker.app import handler_of, open_models
from relais_embedding_worker.batches import Batches, open_batches
from relais_embedding_worker.settings import Settings, read_settings
from relais_testing.builders import MODEL, worker_metrics
from relais_testing.encoders import WatchedEncoder
from relais_testing.worker import LEASE_S

_numbers = count(1)


@dataclass(frozen=True)
class EmbeddingWorker:
    """A running worker."""

    encoder: WatchedEncoder
    batches: Batches
    stop: asyncio.Event
    serving: asyncio.Task[None]

    async def drain(self) -> None:
        """Drain, as after SIGTERM."""
        self.stop.set()
        await self.serving


def _settings(redis_url: str, **environ: str) -> Settings:
    return read_settings(
        {
            "REDIS_URL": redis_url,
            "WORKER_ID": f"embedding-{next(_numbers)}",
            "LEASE_S": str(LEASE_S),
            "REAP_EVERY_S": "0.1",
            "HEARTBEAT_S": "0.5",
            "EMBEDDING_MAX_BATCH_TOKENS": "64",
        }
        | environ
    )


@asynccontextmanager
async def open_remote_embedding_worker(redis_url: str, **environ: str) -> AsyncIterator[None]:
    """Run a worker of the models of these tables inside the context."""
    remote = {"EMBEDDING_ENGINE": "remote", "REMOTE_PROBE_EVERY_S": "0.2", **environ}
    async with open_embedding_models(redis_url, **remote):
        yield


@asynccontextmanager
async def open_embedding_models(redis_url: str, **environ: str) -> AsyncIterator[None]:
    """Run a worker of the models of these settings inside the context."""
    settings = _settings(redis_url, **environ)
    service = settings.service
    async with open_store(service.redis) as store, open_models(settings) as models:
        metrics = worker_metrics(*(model.name for model in models))
        stop = asyncio.Event()
        async with background(
            *(serve(service, model, True, store, metrics, stop, []) for model in models)
        ):
            yield


@asynccontextmanager
async def open_embedding_worker(
    redis_url: str, *, model: str = MODEL, encoder: WatchedEncoder | None = None, **environ: str
) -> AsyncIterator[EmbeddingWorker]:
    """Yield a running worker; any setting may be given. It hands back its jobs at the end."""
    settings = _settings(redis_url, **environ)
    encoder, bounds = encoder or WatchedEncoder(), settings.bounds
    service: ServiceSettings = settings.service
    stop = asyncio.Event()
    async with (
        open_store(service.redis) as store,
        open_batches(
            encoder,
            max_batch_tokens=bounds.max_batch_tokens or encoder.info.batch_tokens,
            max_wait_s=bounds.max_wait_s,
        ) as batches,
    ):

        def make_handler(desk: Desk) -> Handler:
            return handler_of(encoder, batches, desk.source, bounds)

        async def is_well() -> None:
            return

        served = Served(model, lambda: ModelStatus(bounds.max_requests), is_well, make_handler)
        metrics = worker_metrics(model)
        serving = asyncio.create_task(serve(service, served, False, store, metrics, stop, []))
        try:
            yield EmbeddingWorker(encoder, batches, stop, serving)
        finally:
            encoder.gate.set()
            serving.cancel()
            await asyncio.wait({serving})
