"""Opens every model of a table: one server per URL and headers, one pool per model."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import NamedTuple

from relais_common.remote.client import Client
from relais_common.remote.pool import Changes, Pool
from relais_common.remote.probe import Identify, probe_for_ever
from relais_common.remote.server import Server
from relais_common.remote.settings import RemoteSettings
from relais_common.runtime.lifecycle import background


class _Access(NamedTuple):
    url: str
    api_key: str | None
    max_concurrency: int


@asynccontextmanager
async def open_pools(
    settings: RemoteSettings, client: Client, identify: Identify
) -> AsyncIterator[Mapping[str, Pool]]:
    """Yield the pools of the table's models, in its order, and probe their servers inside the context."""
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
    probes = [
        probe_for_ever(
            client.session,
            server,
            [name for name, ways in models.items() if access in ways],
            identify,
            every_s=settings.probe_every_s,
            connect_timeout_s=settings.connect_timeout_s,
        )
        for access, server in servers.items()
    ]
    async with background(*probes):
        yield {name: Pool(name, list(ways.values()), changes) for name, ways in models.items()}
