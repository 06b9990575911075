"""Settings of traces: whether they are kept, where, and for how long."""

from __future__ import annotations

from dataclasses import dataclass

from relais_common.insights.mongo import MongoSettings, read_mongo_settings
from relais_common.jobs.traces import Tracing
from relais_common.runtime import environ
from relais_common.runtime.environ import Environ


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceSettings:
    """Settings of a deployment that keeps traces.

    Attributes:
        tracing: trace content of each accepted request.
        retention_days: days after a request's end.
        write_every_s: how long traces are collected before they are written together.
    """

    mongo: MongoSettings
    tracing: Tracing
    retention_days: int
    write_every_s: float


def read_trace_settings(env: Environ) -> TraceSettings | None:
    """Return the settings, or None without `MONGODB_URL`: requests then leave no trace, which nobody would collect.

    Raises:
        SettingsError: a setting is invalid.
    """
    mongo = read_mongo_settings(env)
    content = environ.choice(env, "TRACE_CONTENT", "none", ("none", "full"))
    max_waiting = environ.integer(env, "MAX_WAITING_TRACES", 100_000, at_least=1)
    retention_days = environ.integer(env, "TRACE_RETENTION_DAYS", 90, at_least=1, at_most=20_000)
    write_every_s = environ.number(env, "TRACE_WRITE_EVERY_S", 1.0, at_least=0.05, at_most=60)
    if mongo is None:
        return None
    return TraceSettings(
        mongo=mongo,
        tracing=Tracing(content=content == "full", max_waiting=max_waiting),
        retention_days=retention_days,
        write_every_s=write_every_s,
    )
