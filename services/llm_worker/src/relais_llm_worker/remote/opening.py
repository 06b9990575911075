"""Opens every model of `LLM_TABLE`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Coroutine, Iterable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import structlog
from prometheus_client import CollectorRegistry

from relais_common.config.server_table import ALBERT_S_TABLE, TableEntry, read_server_table
from relais_common.remote.client import open_session
from relais_common.remote.opening import open_pools
from relais_common.remote.pool import Pool
from relais_common.remote.server import Server
from relais_common.remote.settings import RemoteSettings
from relais_common.runtime.lifecycle import background
from relais_llm_worker.remote.exchange import StreamingClient
from relais_llm_worker.remote.identity import identify
from relais_llm_worker.remote.metrics import RemoteMetrics
from relais_llm_worker.remote.model import Limits, RemoteModel

log = structlog.get_logger(__name__)


@asynccontextmanager
async def open_remote_models(
    settings: RemoteSettings, limits: Limits, registry: CollectorRegistry
) -> AsyncIterator[Sequence[RemoteModel]]:
    """Yield the models of the table, in its order, and probe their servers inside the context."""
    metrics = RemoteMetrics(registry, list(dict.fromkeys(entry.model for entry in settings.table)))
    async with open_session() as session:
        client = StreamingClient(session, settings, metrics.ignored)
        async with (
            open_pools(settings, client, partial(identify, client)) as pools,
            background(*_reports_of_default(settings, pools.values())),
        ):
            yield [RemoteModel(name, pool, client, limits) for name, pool in pools.items()]


def _reports_of_default(
    settings: RemoteSettings, pools: Iterable[Pool]
) -> list[Coroutine[Any, Any, None]]:
    default = read_server_table("LLM_TABLE", ALBERT_S_TABLE, TableEntry)
    if [(one.model, one.url) for one in settings.table] != [
        (one.model, one.url) for one in default
    ]:
        return []
    return [
        _report_default(settings.table[0].model, server)
        for pool in pools
        for server in pool.servers
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
