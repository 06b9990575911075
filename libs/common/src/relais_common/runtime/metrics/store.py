"""Metrics of the protocol's steps: durations and failures, measured around the ports."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from inspect import iscoroutinefunction
from typing import TYPE_CHECKING, Any, TypeVar, cast

from prometheus_client import CollectorRegistry

from relais_common.jobs.errors import StoreUnavailable
from relais_common.queue import ports
from relais_common.queue.ports import Reaped, Recovery
from relais_common.queue.redis_store import RedisStore
from relais_common.runtime.metrics import buckets
from relais_common.runtime.metrics.instruments import Counter, Distribution, Histogram, Value

if TYPE_CHECKING:
    from relais_common.queue.recovery.redis_recovery import RedisRecovery

Port = TypeVar("Port")

_PORTS = (
    ports.JobIntake,
    ports.JobSource,
    ports.Recovery,
    ports.EventLog,
    ports.WorkerRegistry,
    ports.Operations,
    ports.TraceOutbox,
)
STEPS = tuple(
    sorted(
        {
            name
            for port in _PORTS
            for name, member in vars(port).items()
            if iscoroutinefunction(member)
        }
    )
)
_WAITS = "wait_for_work"
"""This step waits until something comes, so its duration says nothing about the store."""


class StoreMetrics:
    """Metrics of all calls that one process makes to the store."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._seconds = Histogram(
            registry,
            "relais_redis_step_duration_seconds",
            "Time that a step of the protocol took, Redis, network and the client's repetitions included.",
            {"step": STEPS},
            buckets=buckets.STORE_S,
        )
        self._errors = Counter(
            registry,
            "relais_redis_errors_total",
            "Steps of the protocol that failed because Redis was away, loading, full or too slow.",
            {"step": STEPS},
        )
        self._reaped = Counter(
            registry,
            "relais_reaped_requests_total",
            "Requests that this process's reaper put back (lease over), or ended (deadline, no reader, failures).",
            {"outcome": ("requeued", "ended")},
        )

    def around(self, store: RedisStore) -> RedisStore:
        """Return the store with all its ports instrumented."""
        recovery = _CountedRecovery(self._measured(store.recovery), self._reaped)
        return replace(
            store,
            intake=self._measured(store.intake),
            source=self._measured(store.source),
            recovery=cast("RedisRecovery", recovery),
            log=self._measured(store.log),
            registry=self._measured(store.registry),
            operations=self._measured(store.operations),
            traces=self._measured(store.traces),
        )

    def _measured(self, port: Port) -> Port:
        return cast("Port", _Measured(port, self._seconds, self._errors))


class _Measured:
    def __init__(self, port: object, seconds: Histogram, errors: Counter) -> None:
        self._port = port
        self._seconds = seconds
        self._errors = errors

    def __getattr__(self, name: str) -> Any:
        member = getattr(self._port, name)
        if not iscoroutinefunction(member):
            return member
        seconds = Distribution(()) if name == _WAITS else self._seconds.of(name)
        measured = _measured(member, seconds, self._errors.of(name))
        setattr(self, name, measured)  # the next time it is found without asking here
        return measured


def _measured(
    call: Callable[..., Awaitable[Any]], seconds: Distribution, errors: Value
) -> Callable[..., Awaitable[Any]]:
    async def measured(*args: Any, **kwargs: Any) -> Any:
        began_s = time.monotonic()
        try:
            return await call(*args, **kwargs)
        except StoreUnavailable:
            errors.add()
            raise
        finally:
            seconds.observe(time.monotonic() - began_s)

    return measured


class _CountedRecovery:
    def __init__(self, recovery: Recovery, reaped: Counter) -> None:
        self._recovery = recovery
        self._requeued, self._ended = reaped.of("requeued"), reaped.of("ended")

    async def reap(self, model: str, *, max_failures: int, limit: int) -> Reaped:
        reaped = await self._recovery.reap(model, max_failures=max_failures, limit=limit)
        self._requeued.add(reaped.requeued)
        self._ended.add(reaped.ended)
        return reaped
