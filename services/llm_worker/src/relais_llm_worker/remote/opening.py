"""Opening every model of a table: one client, one server per URL, one pool per model."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from aiohttp import ClientSession, DummyCookieJar, TCPConnector

from relais_common.lifecycle import background
from relais_llm_worker.remote.exchange import Client
from relais_llm_worker.remote.model import Limits, RemoteModel
from relais_llm_worker.remote.pool import Changes, Pool
from relais_llm_worker.remote.probe import probe_for_ever
from relais_llm_worker.remote.server import Server
from relais_llm_worker.remote.settings import RemoteSettings


@asynccontextmanager
async def open_remote_models(
    settings: RemoteSettings, limits: Limits
) -> AsyncIterator[Sequence[RemoteModel]]:
    """The models of the table, in its order. Servers are looked at for as long as the context lasts."""
    changes = Changes()
    servers: dict[str, Server] = {}
    models: dict[str, dict[str, Server]] = {}
    for entry in settings.table:
        if entry.url not in servers:
            servers[entry.url] = Server(
                entry.url,
                entry.api_key,
                entry.max_concurrency or settings.max_concurrency,
                changes.ring,
            )
        models.setdefault(entry.model, {})[entry.url] = servers[entry.url]
    async with ClientSession(
        connector=TCPConnector(limit=0), cookie_jar=DummyCookieJar()
    ) as session:
        client = Client(
            session,
            connect_timeout_s=settings.connect_timeout_s,
            read_timeout_s=settings.read_timeout_s,
        )
        probes = [
            probe_for_ever(
                session,
                client,
                server,
                [name for name, urls in models.items() if url in urls],
                every_s=settings.probe_every_s,
                connect_timeout_s=settings.connect_timeout_s,
            )
            for url, server in servers.items()
        ]
        async with background(*probes):
            yield [
                RemoteModel(name, Pool(name, list(urls.values()), changes), client, changes, limits)
                for name, urls in models.items()
            ]
