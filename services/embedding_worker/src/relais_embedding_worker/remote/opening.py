"""Opens every model of `EMBEDDING_TABLE`, `RERANK_TABLE` and `CLASSIFY_TABLE`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from relais_common.jobs.job import Operation
from relais_common.remote.client import Client, open_session
from relais_common.remote.opening import open_pools
from relais_common.remote.pool import Pool
from relais_common.remote.server import Served as ServedThere
from relais_common.remote.server import Server
from relais_common.worker.consumer import Handler
from relais_common.worker.serving import Desk, Served
from relais_embedding_worker.remote.handlers import (
    Access,
    RemoteClassifyHandler,
    RemoteEmbedHandler,
    RemoteRerankHandler,
)
from relais_embedding_worker.settings import Bounds, ServersSettings


@asynccontextmanager
async def open_remote(
    settings: ServersSettings, bounds: Bounds, max_failures: int
) -> AsyncIterator[Sequence[Served]]:
    """Yield the models of the tables, and probe their servers inside the context."""
    servers = settings.servers
    async with open_session() as session:
        client = Client(session, servers)

        def served(name: str, pool: Pool) -> Served:
            access = Access(
                name, pool, client, servers.read_timeout_s, max_failures, settings.batch_size
            )

            def make_handler(desk: Desk) -> Handler:
                match settings.kinds[name]:
                    case Operation.RERANK:
                        return RemoteRerankHandler(access, desk.source, bounds)
                    case Operation.CLASSIFY:
                        return RemoteClassifyHandler(access, desk.source, bounds)
                return RemoteEmbedHandler(access, desk.source, bounds, settings.prompts[name])

            return Served(name, pool.status, _is_well, make_handler)

        async with open_pools(servers, client, _identify) as pools:
            yield [served(name, pool) for name, pool in pools.items()]


async def _identify(
    _: Server, model: str, card: dict[str, Any], max_model_len: int | None
) -> ServedThere:
    """Vectors are asked for at once, and nothing continues elsewhere: the weights need no name."""
    return ServedThere(max_model_len=max_model_len)


async def _is_well() -> None:
    """Do nothing: servers that are down may come back."""
