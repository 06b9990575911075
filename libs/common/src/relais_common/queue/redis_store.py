"""All ports over one Redis."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from redis.asyncio import Redis

from relais_common.queue.accounts.redis_accounts import RedisAccounts
from relais_common.queue.client.calls import Commands
from relais_common.queue.client.connection import RedisSettings, store_errors
from relais_common.queue.client.scripting import Scripts
from relais_common.queue.client.servers import reach
from relais_common.queue.events.live_bus import RedisLiveBus
from relais_common.queue.events.presence import RedisPresence
from relais_common.queue.events.redis_log import RedisEventLog
from relais_common.queue.inspection.redis_inspector import RedisInspector
from relais_common.queue.intake.accept_wait import AcceptWait, ConfirmedScript
from relais_common.queue.intake.redis_intake import RedisJobIntake
from relais_common.queue.recovery.redis_recovery import RedisRecovery
from relais_common.queue.registry.redis_registry import RedisWorkerRegistry, shared_secret
from relais_common.queue.source.redis_source import RedisJobSource
from relais_common.queue.traces.redis_traces import RedisTraceOutbox
from relais_common.runtime.lifecycle import background

if TYPE_CHECKING:
    from relais_common.queue.metrics import StoreMetrics

__all__ = ["AcceptWait", "RedisSettings", "RedisStore", "open_store"]

PING_TIMEOUT_S = 2.0
"""Shorter than the timeout of commands, because readiness probes do not wait longer."""


@dataclass(frozen=True, slots=True)
class RedisStore:
    """All ports over the same Redis.

    Attributes:
        redis: a client for access behind the ports, as in tests; connects on first use.
    """

    intake: RedisJobIntake
    presence: RedisPresence
    source: RedisJobSource
    recovery: RedisRecovery
    log: RedisEventLog
    live: RedisLiveBus
    registry: RedisWorkerRegistry
    inspector: RedisInspector
    accounts: RedisAccounts
    traces: RedisTraceOutbox
    calls: Commands
    redis: Redis

    async def ping(self) -> None:
        """Raise StoreUnavailable unless Redis answers within `PING_TIMEOUT_S`."""
        with store_errors():
            async with asyncio.timeout(PING_TIMEOUT_S):
                await self.calls.send("PING")

    async def signing_secret(self) -> bytes:
        """Return the secret that all orchestrators of this Redis share."""
        return await shared_secret(self.calls)


@asynccontextmanager
async def open_store(
    settings: RedisSettings,
    *,
    watch_grace_s: float = 30.0,
    accept_wait: AcceptWait | None = None,
    metrics: StoreMetrics | None = None,
) -> AsyncIterator[RedisStore]:
    """Connect lazily; everything is closed on the way out.

    Args:
        metrics: what times each step of the protocol.
    """
    async with AsyncExitStack() as stack:
        wait_s = 0.0 if accept_wait is None else accept_wait.timeout_s
        servers = await stack.enter_async_context(reach(settings, longest_wait_s=wait_s))
        calls, trace_calls = servers.calls, servers.trace_calls
        scripts = Scripts(calls, metrics)
        confirmed = None
        if accept_wait is not None and accept_wait.wanted:
            confirmed = ConfirmedScript(servers.waiting, "enqueue", accept_wait)
        live = RedisLiveBus(servers.make_link)
        # If a loop dies, its users end too; otherwise calls and streams would hang silently.
        await stack.enter_async_context(background(calls.run(), trace_calls.run(), live.run()))
        yield RedisStore(
            intake=RedisJobIntake(scripts, watch_grace_s=watch_grace_s, confirmed=confirmed),
            presence=RedisPresence(servers.blocking),
            source=RedisJobSource(scripts, servers.blocking),
            recovery=RedisRecovery(scripts),
            log=RedisEventLog(scripts),
            live=live,
            registry=RedisWorkerRegistry(scripts),
            inspector=RedisInspector(scripts),
            accounts=RedisAccounts(calls),
            traces=RedisTraceOutbox(Scripts(trace_calls, metrics)),
            calls=calls,
            redis=servers.redis,
        )
