"""Joins the orchestrator's parts."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from functools import cache, partial
from typing import Any, TypeVar

import orjson
import structlog
from aiohttp import web

from relais_common import __version__
from relais_common.insights.mongo import open_database
from relais_common.jobs.errors import SettingsError, StoreUnavailable
from relais_common.jobs.job import Operation
from relais_common.queue.merged import MergedAccounts, MergedInspector
from relais_common.queue.metrics import StoreMetrics
from relais_common.queue.reaper import reap_for_ever
from relais_common.queue.redis_store import RedisStore, open_store
from relais_common.queue.shards import Shards
from relais_common.runtime import garbage
from relais_common.runtime.connections import bound_unsent
from relais_common.runtime.health import add_health_routes
from relais_common.runtime.lifecycle import background, stop_on_signals
from relais_common.runtime.metrics.exposition import LoopLag, add_metrics_route, new_registry
from relais_orchestrator.access.auth import EventsUrlSigner, KeyRing
from relais_orchestrator.access.key_file import KeyFile
from relais_orchestrator.api.channel_streams import STREAM_FORMATS
from relais_orchestrator.api.docs.components import Deployment
from relais_orchestrator.api.docs.document import build_document
from relais_orchestrator.api.docs.handlers import DOCUMENT
from relais_orchestrator.api.docs.pages import add_docs_page
from relais_orchestrator.api.door import turns
from relais_orchestrator.api.kpis.reader import KPIS, KpiReader, open_kpis
from relais_orchestrator.api.refused import Refused
from relais_orchestrator.api.route import KEYS
from relais_orchestrator.api.table import FORMATS, ROUTES, SUBMITTING, error_body_of
from relais_orchestrator.app_keys import PARTS, Parts
from relais_orchestrator.batches.parts import BATCHES, BatchParts
from relais_orchestrator.batches.runner import run_batches
from relais_orchestrator.batches.store import BatchStore
from relais_orchestrator.files.expiry import expire_files
from relais_orchestrator.files.store import FileStore
from relais_orchestrator.http import ignored_fields, rate_headers, request_ids
from relais_orchestrator.http.bodies import expect_body
from relais_orchestrator.http.fixed import Fixed
from relais_orchestrator.http.held import HELD, HeldBytes
from relais_orchestrator.http.large_answers import hold_answers
from relais_orchestrator.http.open_files import allow_most_open_files
from relais_orchestrator.http.screening import screen
from relais_orchestrator.http.server import Runner
from relais_orchestrator.http.trailing_slashes import TrailingSlashes
from relais_orchestrator.metrics import OrchestratorMetrics, open_metrics
from relais_orchestrator.responses.store import ResponseStore
from relais_orchestrator.settings import Settings
from relais_orchestrator.streams.drain import Drain
from relais_orchestrator.streams.follow import Follower
from relais_orchestrator.streams.open_streams import Streams
from relais_orchestrator.streams.watcher import Watcher, stay_present
from relais_orchestrator.submission.catalogue import Catalogue
from relais_orchestrator.submission.image_urls import ImageFetcher
from relais_orchestrator.submission.images import Images
from relais_orchestrator.submission.model_states import ModelStates
from relais_orchestrator.submission.reading.readers import Readers, open_readers
from relais_orchestrator.submission.spreading import Spreader
from relais_orchestrator.submission.submitter import Submitter
from relais_orchestrator.tracing.running import writing_traces

log = structlog.get_logger(__name__)

START_RETRY_S = 0.5
_Answer = TypeVar("_Answer")
ENDPOINTS = {route.path: route.batch for route in ROUTES if route.batch is not None}
BACKLOG = 4096
"""Length of the accept queue; further clients retry after a second. Linux caps it at `somaxconn`."""


def create_parts(
    settings: Settings,
    store: RedisStore,
    secret: bytes,
    key_ring: KeyRing,
    catalogue: Catalogue,
    metrics: OrchestratorMetrics,
    files: FileStore | None,
    responses: ResponseStore | None,
    readers: Readers,
    shards: Shards,
) -> Parts:
    """Build everything that the handlers share."""
    drain = Drain(store.live)
    watcher = Watcher(store.intake, lease_s=settings.streaming.watch_lease_s)
    hosts, max_bytes = settings.image_url_hosts, settings.limits.max_body_bytes
    fetcher = ImageFetcher(hosts, max_bytes=max_bytes) if hosts else None
    inspector = MergedInspector(store.inspector, shards)
    model_states = ModelStates(settings.models, inspector, store.registry)
    return Parts(
        settings=settings,
        queue=store.intake,
        inspector=inspector,
        registry=store.registry,
        catalogue=catalogue,
        model_states=model_states,
        images=Images(catalogue, model_states, fetcher),
        submitter=Submitter(
            store.intake,
            catalogue,
            settings.limits,
            drain,
            metrics.requests.accepted,
            watcher,
            Spreader(shards),
            None if settings.traces is None else settings.traces.tracing,
        ),
        follower=Follower(
            store.intake,
            store.log,
            store.live,
            idle_s=settings.streaming.keepalive_s,
            delivered=metrics.streams.delivered,
        ),
        watcher=watcher,
        key_ring=key_ring,
        signer=EventsUrlSigner(secret, ttl_s=settings.streaming.events_url_ttl_s),
        drain=drain,
        streams=Streams(settings.limits.max_streams_per_key),
        readers=readers,
        accounts=MergedAccounts(store.accounts, shards),
        files=files,
        responses=responses,
        started_at_s=int(time.time()),
    )


def create_app(
    parts: Parts,
    store: RedisStore,
    metrics: OrchestratorMetrics,
    *,
    batches: BatchParts | None = None,
    kpis: KpiReader | None = None,
) -> web.Application:
    """Build the HTTP application over parts that are already open."""
    refused = Refused(parts.settings.limits.max_body_bytes)
    app = web.Application(
        middlewares=[
            metrics.middleware,
            turns(metrics.requests.turn_wait.observe),
            parts.settings.cors.middleware,
            screen,
            hold_answers,
            refused.middleware,
        ]
    )
    app[PARTS] = parts
    app[STREAM_FORMATS] = FORMATS
    app[HELD] = HeldBytes(parts.settings.limits.max_held_bytes_per_key)
    if batches is not None:
        app[BATCHES] = batches
    if kpis is not None:
        app[KPIS] = kpis
    app.on_response_prepare.extend(
        (
            request_ids.stamp,
            rate_headers.stamp,
            ignored_fields.stamp,
            parts.settings.cors.stamp,
            parts.drain.stamp,
        )
    )
    app[DOCUMENT] = Fixed(_document(_deployment(parts)), "application/json")
    app.add_routes(
        route.to_aiohttp(expect_handler=expect_body)
        for route in ROUTES
        if route.handler is not None
    )
    add_docs_page(app, parts.settings.proxy.root_path)

    async def ready() -> str | None:
        if parts.drain.started:
            return "draining"
        try:
            await store.ping()
        except StoreUnavailable:
            return "Redis does not answer"
        return None

    add_health_routes(app, ready)
    add_metrics_route(app, metrics.registry, metrics.queues.refresh)
    return app


@cache
def _document(deployment: Deployment) -> bytes:
    """Encode the OpenAPI document. Orchestrators of one process share it."""
    return orjson.dumps(build_document(ROUTES, deployment))


def _deployment(parts: Parts) -> Deployment:
    settings = parts.settings
    return Deployment(
        version=__version__,
        root_path=settings.proxy.root_path,
        models=tuple(
            (one, settings.model_kinds.get(one, Operation.CHAT)) for one in settings.models
        ),
        any_token=settings.env == "dev",
        ignore_unknown=settings.ignore_unknown,
        max_deadline_s=settings.limits.max_deadline_s,
    )


@asynccontextmanager
async def open_orchestrator(settings: Settings) -> AsyncIterator[tuple[Parts, int]]:
    """Wait for Redis, then serve; yields the parts and the bound port. Raises SettingsError."""
    key_file = None if settings.api_keys is None else KeyFile(settings.api_keys)
    keys = None if key_file is None else key_file.keys
    if settings.env != "dev" and not keys:
        raise SettingsError(
            f"API_KEYS: {settings.api_keys} has no key; with ENV={settings.env} nobody could ask"
        )
    key_ring = KeyRing(keys, any_token=settings.env == "dev")
    catalogue = Catalogue(settings.models, settings.model_aliases, settings.model_kinds)
    registry = new_registry("relais-orchestrator")
    async with (
        open_store(
            settings.redis,
            watch_grace_s=settings.streaming.watch_lease_s,
            accept_wait=settings.accept_wait,
            metrics=StoreMetrics(registry),
        ) as store,
        open_kpis(None if settings.traces is None else settings.traces.mongo) as kpis,
        open_stores(settings) as stores,
        open_readers(ignore_unknown=settings.ignore_unknown) as readers,
    ):
        shards = Shards(store.registry, settings.queue_shards)
        metrics = open_metrics(
            registry,
            MergedInspector(store.inspector, shards),
            store.registry,
            settings.models,
            [route.template for route in ROUTES],
            SUBMITTING,
        )
        parts = create_parts(
            settings,
            store,
            await _once_there(store.signing_secret),
            key_ring,
            catalogue,
            metrics,
            None if stores is None else stores[0],
            None if stores is None else stores[2],
            readers,
            shards,
        )
        # Workers know of a queue before anything is in it.
        await _once_there(shards.announce)
        batches = None if stores is None else BatchParts(parts, stores[0], stores[1], ENDPOINTS)
        runner = Runner(
            create_app(parts, store, metrics, batches=batches, kpis=kpis),
            settings.connections,
            settings.proxy,
            TrailingSlashes(route.path for route in ROUTES if route.access in KEYS),
            error_body_of,
            shutdown_timeout_s=1.0,
        )
        await runner.setup()
        parts.drain.close_idle = runner.close_idle
        try:
            site = web.TCPSite(runner, settings.host, settings.port, backlog=BACKLOG)
            await site.start()
            bound_unsent(site)
            port: int = runner.addresses[0][1]
            async with (
                background(
                    *_following(key_file, parts, store),
                    parts.watcher.run(),
                    shards.run(),
                    shards.run_each(
                        partial(stay_present, store.presence, watcher_id=parts.watcher.watcher_id),
                        asyncio.Event(),
                    ),
                    runner.cut_unread(),
                    *_on_files(batches, metrics),
                    LoopLag(metrics.registry).run(),
                    shards.run_each(
                        partial(
                            reap_for_ever,
                            store.recovery,
                            every_s=settings.reap_every_s,
                            max_failures=settings.max_failures,
                            outage_grace_s=settings.lease_s,
                        ),
                        asyncio.Event(),
                    ),
                ),
                writing_traces(
                    settings.traces,
                    store.traces,
                    shards.queues,
                    metrics.traces,
                    None if stores is None else stores[2],
                ),
            ):
                yield parts, port
        finally:
            await runner.cleanup()


@asynccontextmanager
async def open_stores(
    settings: Settings,
) -> AsyncIterator[tuple[FileStore, BatchStore, ResponseStore] | None]:
    """Yield the stores of files, batches and responses, or None without a database. Does not connect yet.

    Raises:
        SettingsError: the URL is malformed.
    """
    if settings.traces is None:
        yield None
        return
    async with open_database(settings.traces.mongo) as database:
        yield (
            FileStore(database, settings.files),
            BatchStore(database, settings.batches),
            ResponseStore(database, settings.responses),
        )


def _on_files(
    batches: BatchParts | None, metrics: OrchestratorMetrics
) -> list[Coroutine[Any, Any, None]]:
    if batches is None:
        return []
    return [
        expire_files(batches.files, batches.store.input_files),
        run_batches(batches, metrics.batches),
    ]


def _following(
    key_file: KeyFile | None, parts: Parts, store: RedisStore
) -> list[Coroutine[Any, Any, None]]:
    # Every stream checks at once whether its key is still valid.
    return [] if key_file is None else [key_file.follow(parts.key_ring, store.live.nudge)]


async def _once_there(step: Callable[[], Coroutine[Any, Any, _Answer]]) -> _Answer:
    while True:
        try:
            return await step()
        except StoreUnavailable:
            log.warning("redis_unavailable")
            await asyncio.sleep(START_RETRY_S)


async def run(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT, then drain."""
    open_files = allow_most_open_files()
    stop = asyncio.Event()
    with stop_on_signals(stop):
        async with open_orchestrator(settings) as (parts, port):
            log.info(
                "orchestrator_ready",
                port=port,
                models=settings.models,
                env=settings.env,
                traces=settings.traces is not None,
                open_files=open_files,
            )
            garbage.freeze_startup_objects()
            await stop.wait()
            log.info("orchestrator_draining")
            await parts.drain.run(settings.drain_s)
    log.info("orchestrator_stopped")
