"""Joins the embedding worker's parts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

from relais_common.queue.ports import JobSource
from relais_common.worker.consumer import Handler
from relais_common.worker.serving import Desk, Served, run_worker
from relais_common.worker.status import ModelStatus
from relais_embedding_worker.backends.choice import Candidate
from relais_embedding_worker.batches import Batches
from relais_embedding_worker.classify import ClassifyHandler
from relais_embedding_worker.embed import EmbedHandler
from relais_embedding_worker.encoder import Classifier, Encoder, Reranker
from relais_embedding_worker.lent import LentHandler
from relais_embedding_worker.remote.opening import open_remote
from relais_embedding_worker.rerank import RerankHandler
from relais_embedding_worker.settings import Bounds, EncoderSettings, Settings
from relais_embedding_worker.shelf import RETRY_S, Loaded, Shelf, open_shelf


def open_encoder(settings: EncoderSettings, choices: dict[str, Candidate]) -> Encoder:
    """Load the model, which takes seconds. sentence-transformers is imported only if it is chosen.

    Args:
        choices: as of `open_model`.
    """
    if settings.kind == "deterministic":
        from relais_embedding_worker.encoder_deterministic import DeterministicEncoder

        return DeterministicEncoder(tokens_per_s=settings.tokens_per_s)
    from relais_embedding_worker.encoder_sentence_transformers import open_model

    return open_model(settings, choices)


def _check(encoders: Sequence[EncoderSettings]) -> None:
    """Import what loading models later needs. Raises as `check_model` does."""
    if encoders[0].kind != "deterministic":
        from relais_embedding_worker.encoder_sentence_transformers import check_model

        for one in encoders:
            check_model(one)


def handler_of(encoder: Encoder, batches: Batches, source: JobSource, bounds: Bounds) -> Handler:
    """Return what runs the jobs of a model of this kind."""
    if isinstance(encoder, Reranker):
        return RerankHandler(encoder, batches, source, bounds)
    if isinstance(encoder, Classifier):
        return ClassifyHandler(encoder, batches, source, bounds)
    return EmbedHandler(encoder, batches, source, bounds)


@asynccontextmanager
async def open_models(settings: Settings) -> AsyncIterator[Sequence[Served]]:
    """Yield the models of a worker: one is loaded at once, and several when they are needed."""
    bounds = settings.bounds
    if settings.remote is not None:
        max_failures = settings.service.max_failures
        async with open_remote(settings.remote, bounds, max_failures) as models:
            yield models
        return
    encoders = {one.served_name: one for one in settings.encoders}
    first = settings.encoders[0]
    only: dict[str, Encoder] = {}
    choices: dict[str, Candidate] = {}
    if len(encoders) == 1:
        # Here, what is wrong with it ends the start with its own error.
        only[first.served_name] = await asyncio.to_thread(open_encoder, first, choices)
    else:
        await asyncio.to_thread(_check, settings.encoders)

    def load(name: str) -> Encoder:
        return only.pop(name) if name in only else open_encoder(encoders[name], choices)

    async with open_shelf(load, bounds) as shelf, AsyncExitStack() as stack:
        for name in tuple(only):
            await stack.enter_async_context(shelf.lend(name))

        def served(name: str) -> Served:
            def make_handler(desk: Desk) -> Handler:
                def of_loaded(loaded: Loaded) -> Handler:
                    return handler_of(loaded.encoder, loaded.batches, desk.source, bounds)

                return LentHandler(shelf, name, of_loaded, bounds)

            return Served(name, lambda: _status(shelf, name, bounds), _is_well, make_handler)

        yield [served(name) for name in encoders]


def _status(shelf: Shelf, name: str, bounds: Bounds) -> ModelStatus:
    info = shelf.info(name)
    max_model_len = None if info is None else info.max_tokens
    if shelf.has_failed(name):
        reason = f"{name} could not be loaded; it is tried again within {RETRY_S:g} s"
        return ModelStatus(0, max_model_len=max_model_len, not_ready=reason)
    return ModelStatus(bounds.max_requests, max_model_len=max_model_len)


async def run(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT, then drain. Raises as `run_worker` does, and SettingsError."""
    await run_worker("relais-embedding-worker", settings.service, lambda _: open_models(settings))


async def _is_well() -> None:
    """Do nothing: the encoder has no separate process that could die."""
