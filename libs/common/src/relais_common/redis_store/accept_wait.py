"""Waiting, at acceptance, for more than one process's memory to have the job."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import structlog
from redis.asyncio import Redis
from redis.exceptions import NoScriptError, ResponseError

from relais_common.errors import NotConfirmed
from relais_common.redis_store.calls import Argument
from relais_common.redis_store.connection import RedisSettings, connect, store_errors
from relais_common.wire import scripts

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class AcceptWait:
    """What must have a job before its client hears that it was accepted.

    Attributes:
        fsync: the disks, of the primary and of the replicas; else their memory counts.
        replicas: how many replicas.
        timeout_s: how long to wait for them.
    """

    fsync: bool = False
    replicas: int = 0
    timeout_s: float = 3.0

    @property
    def wanted(self) -> bool:
        return self.fsync or self.replicas > 0

    @property
    def command(self) -> tuple[Argument, ...]:
        """Waits for what was written before on the same connection."""
        timeout_ms = max(1, int(self.timeout_s * 1000))  # zero would wait for ever
        if self.fsync:
            return ("WAITAOF", 1, self.replicas, timeout_ms)
        return ("WAIT", self.replicas, timeout_ms)

    def met_by(self, answer: Any) -> bool:
        """Whether the command's answer says so."""
        if self.fsync:
            local, replicas = answer
            return bool(local >= 1 and replicas >= self.replicas)
        return bool(answer >= self.replicas)


class ConfirmedScript:
    """One script, and the waiting for what it wrote to be where it must be."""

    def __init__(self, redis: Redis, name: str, wait: AcceptWait) -> None:
        self._redis = redis
        self._script = redis.register_script(scripts.source(name))
        self._wait = wait

    async def run(self, *arguments: Argument) -> tuple[Any, NotConfirmed | None]:
        """The script's answer, and what is to be said where the waiting was in vain.

        Raises:
            StoreUnavailable: whether the script was carried out is unknown.
        """
        with store_errors():
            answer, waited = await self._send(*arguments)
            if isinstance(answer, NoScriptError):
                await self._redis.script_load(self._script.script)
                answer, waited = await self._send(*arguments)
            if isinstance(answer, Exception):
                raise answer
        if isinstance(waited, ResponseError):
            # No append-only file, or not the primary: a waiting that can never be over.
            log.error("confirmation_impossible", error=str(waited))
            return answer, NotConfirmed("the queue cannot confirm what it stored")
        if not self._wait.met_by(waited):
            return answer, NotConfirmed(
                "the request was stored, but not confirmed in time; send it again", retry_after_s=1
            )
        return answer, None

    async def _send(self, *arguments: Argument) -> list[Any]:
        async with self._redis.pipeline(transaction=False) as pipeline:
            pipeline.evalsha(self._script.sha, 1, *arguments)
            pipeline.execute_command(*self._wait.command)
            return list(await pipeline.execute(raise_on_error=False))


@asynccontextmanager
async def open_confirmed(
    settings: RedisSettings, name: str, wait: AcceptWait
) -> AsyncIterator[ConfirmedScript]:
    """Over connections of its own: whoever waits keeps one busy, and the others must not wait with it."""
    redis = connect(replace(settings, timeout_s=settings.timeout_s + wait.timeout_s))
    try:
        yield ConfirmedScript(redis, name, wait)
    finally:
        await redis.aclose()
