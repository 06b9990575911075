"""Opens every model of a table: one client, one server per URL and headers, one pool per model."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import NamedTuple

import structlog
from aiohttp import ClientSession, DummyCookieJar, TCPConnector
from prometheus_client import CollectorRegistry

from relais_common.config.llm_table import ALBERT_S_TABLE, read_llm_table
from relais_common.runtime.lifecycle import background
from relais_llm_worker.remote.exchange import Client
from relais_llm_worker.remote.metrics import RemoteMetrics
from relais_llm_worker.remote.model import Limits, RemoteModel
from relais_llm_worker.remote.pool import Changes, Pool
from relais_llm_worker.remote.probe import probe_for_ever
from relais_llm_worker.remote.server import Server
from relais_llm_worker.remote.settings import RemoteSettings

log = structlog.get_logger(__name__)


class _Access(NamedTuple):
    url: str
    api_key: str | None
    max_concurrency: int


@asynccontextmanager
async def open_remote_models(
    settings: RemoteSettings, limits: Limits, registry: CollectorRegistry
) -> AsyncIterator[Sequence[RemoteModel]]:
    """Yield the models of the table, in its order, and probe their servers inside the context."""
    changes = Changes()
    servers: dict[_Access, Server] = {}
    models: dict[str, dict[_Access, Server]] = {}
    for entry in settings.table:
        most = entry.max_concurrency or settings.max_concurrency
        # Entries with one URL share its places only where they come to it in the same way.
        access = _Access(entry.url, entry.api_key, most)
        if access not in servers:
            servers[access] = Server(*access, changes.ring)
        models.setdefault(entry.model, {})[access] = servers[access]
    metrics = RemoteMetrics(registry, list(models))
    async with ClientSession(
        connector=TCPConnector(limit=0),
        cookie_jar=DummyCookieJar(),
        # What is compressed is refused: it may unpack to anything.
        auto_decompress=False,
        headers={"Accept-Encoding": "identity"},
    ) as session:
        client = Client(
            session,
            connect_timeout_s=settings.connect_timeout_s,
            read_timeout_s=settings.read_timeout_s,
            ignore=metrics.ignored,
        )
        probes = [
            probe_for_ever(
                session,
                client,
                server,
                [name for name, ways in models.items() if access in ways],
                every_s=settings.probe_every_s,
                connect_timeout_s=settings.connect_timeout_s,
            )
            for access, server in servers.items()
        ]
        if _is_default(settings):
            probes += [_report_default(settings.table[0].model, one) for one in servers.values()]
        async with background(*probes):
            yield [
                RemoteModel(name, Pool(name, list(ways.values()), changes), client, limits)
                for name, ways in models.items()
            ]


def _is_default(settings: RemoteSettings) -> bool:
    default = read_llm_table(ALBERT_S_TABLE)
    return [(one.model, one.url) for one in settings.table] == [
        (one.model, one.url) for one in default
    ]


async def _report_default(model: str, server: Server) -> None:
    """Log that this model and server are the default, and after the first probe whether the server answers."""
    await server.looked.wait()
    log.warning(
        "llm_table_default_used",
        model=model,
        url=server.shown,
        answers=server.why_down is None,
        reason=server.why_not(model),
    )
