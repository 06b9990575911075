"""Connections to Redis, with their timeouts, retries and errors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialWithJitterBackoff, NoBackoff
from redis.exceptions import (
    AskError,
    BusyLoadingError,
    ClusterDownError,
    ConnectionError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    ResponseError,
    TimeoutError,
    TryAgainError,
)

from relais_common.jobs.errors import StoreUnavailable
from relais_common.queue.client.calls import Calls
from relais_common.queue.client.link import CONNECT_TIMEOUT_S, links, use_links, where

CONFIRM_TIMEOUT_S = 5.0
"""How long to wait for the confirmation of a subscription."""

LONGEST_BLOCK_S = 10.0
"""Duration of one blocking pop; the connection times out `timeout_s` later."""

_UNAVAILABLE = (
    ConnectionError,
    TimeoutError,
    BusyLoadingError,
    ClusterDownError,
    # A slot has another node, or is on its way to one; `MovedError` is one of these.
    AskError,
    TryAgainError,
    OutOfMemoryError,
    ReadOnlyError,
    OSError,
    # It was loaded a moment ago: the server went and came back in between.
    NoScriptError,
)
_UNAVAILABLE_PREFIXES = (
    "LOADING",
    "READONLY",
    "OOM",
    "MASTERDOWN",
    "NOREPLICAS",
    "MISCONF",
    "UNBLOCKED",  # the server became a replica
    "BUSY ",  # one script has run for seconds, as when the machine was frozen in the middle of it
)


@dataclass(frozen=True, slots=True)
class RedisSettings:
    """The address of Redis, and bounds on its use.

    Attributes:
        url: `redis://[[user]:password@]host:port[/db]`, or `rediss://` for TLS, or one with Sentinels (`sentinels`),
            or a cluster (`clusters`).
        timeout_s: how long one command may take before it counts as lost.
        max_connections: connections for acceptances that wait (`AcceptWait`); further ones wait for a free connection.
    """

    url: str = field(repr=False)
    timeout_s: float = 5.0
    max_connections: int = 64


def connect_for_calls(settings: RedisSettings) -> Calls:
    """Return calls for ordinary commands and scripts. Retries with jitter: every command here may be sent twice.

    A refused or lost connection is retried; a Redis that accepts connections and does not answer is not, because each
    command would then hang for several times `timeout_s`.
    """
    return Calls(
        links(settings.url),
        timeout_s=settings.timeout_s,
        connect_timeout_s=min(CONNECT_TIMEOUT_S, settings.timeout_s),
    )


def connect(settings: RedisSettings) -> Redis:
    """Return a client with one connection per command, for commands that wait. Retries as `Calls` does."""
    url, who_is_master = where(settings.url)
    pool = BlockingConnectionPool.from_url(
        url,
        max_connections=settings.max_connections,
        timeout=settings.timeout_s,
        socket_timeout=settings.timeout_s,
        socket_connect_timeout=CONNECT_TIMEOUT_S,
        retry=Retry(
            ExponentialWithJitterBackoff(base=0.05, cap=1.0),
            retries=3,
            supported_errors=(ConnectionError,),
        ),
        retry_on_error=[BusyLoadingError],
    )
    use_links(pool, who_is_master)
    return Redis.from_pool(pool)


def connect_blocking(settings: RedisSettings) -> Redis:
    """Return a client for blocking pops and subscriptions, which outlive `timeout_s` and must not be retried."""
    url, who_is_master = where(settings.url)
    redis = Redis.from_url(
        url,
        socket_timeout=LONGEST_BLOCK_S + settings.timeout_s,
        socket_connect_timeout=CONNECT_TIMEOUT_S,
        # Under version 3 the client writes each message out for a debug log that nobody keeps.
        protocol=2,
        # Without errors to retry on, it does not even reconnect: two tasks share a subscription's connection.
        retry=Retry(NoBackoff(), retries=0, supported_errors=()),
    )
    use_links(redis.connection_pool, who_is_master)
    return redis


@contextmanager
def store_errors() -> Iterator[None]:
    """Turn redis-py's errors into `StoreUnavailable` if Redis is unreachable, loading or full."""
    try:
        yield
    except _UNAVAILABLE as error:
        raise StoreUnavailable("the queue cannot be reached", retry_after_s=2) from error
    except ResponseError as error:
        # A script's own error carries the cause in its text.
        if any(prefix in str(error) for prefix in _UNAVAILABLE_PREFIXES):
            raise StoreUnavailable("the queue cannot be reached", retry_after_s=2) from error
        raise
