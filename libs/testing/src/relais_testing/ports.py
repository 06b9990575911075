"""Both stores in one shape, so that one test runs over either."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from relais_common.jobs.channels import channel_queue
from relais_common.queue import keys
from relais_common.queue.ports import (
    Accounts,
    EventLog,
    Inspector,
    JobIntake,
    JobSource,
    LiveBus,
    Presence,
    Recovery,
    TraceOutbox,
    WorkerRegistry,
)
from relais_common.queue.redis_store import RedisSettings, RedisStore, open_store
from relais_testing.memory import MemoryStore


@dataclass(frozen=True, slots=True)
class Ports:
    """Every port of one store.

    Attributes:
        let_deadline_pass: moves the deadline of a job that has not ended into the past, in place of waiting.
    """

    intake: JobIntake
    source: JobSource
    recovery: Recovery
    log: EventLog
    live: LiveBus
    registry: WorkerRegistry
    inspector: Inspector
    accounts: Accounts
    traces: TraceOutbox
    presence: Presence
    let_deadline_pass: Callable[[str], Awaitable[None]]


def memory_ports(store: MemoryStore) -> Ports:
    """Return the ports in memory."""
    return Ports(
        *(store, store, store, store, store, store, store.inspector, store, store, store),
        store.let_deadline_pass,
    )


def redis_ports(store: RedisStore) -> Ports:
    """Return the ports of a Redis store."""
    return Ports(
        store.intake,
        store.source,
        store.recovery,
        store.log,
        store.live,
        store.registry,
        store.inspector,
        store.accounts,
        store.traces,
        store.presence,
        partial(_let_pass, store),
    )


async def let_deadline_pass(redis_url: str, channel_id: str) -> None:
    """Move the deadline of a job that has not ended into the past, in place of waiting."""
    async with open_store(RedisSettings(redis_url)) as store:
        await _let_pass(store, channel_id)


async def let_watch_pass(redis_url: str, channel_id: str) -> None:
    """Move the end of a request's watch lease, which somebody must renew, into the past, in place of waiting."""
    watched = keys.watched(channel_queue(channel_id))
    async with (
        open_store(RedisSettings(redis_url)) as store,
        store.source._blocking.of(watched) as redis,
    ):
        assert await redis.zadd(watched, {channel_id: 1}, xx=True, ch=True)


async def let_leases_pass(redis_url: str, model: str) -> None:
    """Move the end of all workers' leases into the past, in place of waiting: their holders are dead."""
    inflight = keys.inflight(model)
    async with (
        open_store(RedisSettings(redis_url)) as store,
        store.source._blocking.of(inflight) as redis,
    ):
        held: list[Any] = await redis.zrange(inflight, 0, -1)
        assert held
        await redis.zadd(inflight, dict.fromkeys(held, 1), xx=True)


async def _let_pass(store: RedisStore, channel_id: str) -> None:
    deadlines = keys.deadlines(channel_queue(channel_id))
    async with store.source._blocking.of(deadlines) as redis:
        await redis.hset(keys.job(channel_id), "deadline_at", "1")
        assert await redis.zadd(deadlines, {channel_id: 1}, xx=True, ch=True)
