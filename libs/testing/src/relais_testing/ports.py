"""Both stores in one shape, so that one test runs over either."""

from __future__ import annotations

from dataclasses import dataclass

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
from relais_common.queue.redis_store import RedisStore
from relais_testing.memory import MemoryStore


@dataclass(frozen=True, slots=True)
class Ports:
    """Every port of one store."""

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


def memory_ports(store: MemoryStore) -> Ports:
    """Return the ports in memory."""
    return Ports(store, store, store, store, store, store, store.inspector, store, store, store)


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
    )
