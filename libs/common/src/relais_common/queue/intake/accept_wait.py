"""Waits at acceptance until the job is on disk or on replicas."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import structlog
from redis.asyncio import Redis
from redis.exceptions import NoScriptError, ResponseError

from relais_common.jobs.errors import NotConfirmed
from relais_common.queue import scripts
from relais_common.queue.client.clients import Clients
from relais_common.queue.client.packing import Argument

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class AcceptWait:
    """The durability that a job needs before its client is told that it was accepted.

    Attributes:
        fsync: require the disks of the primary and the replicas; else their memory is enough.
        replicas: number of replicas.
        timeout_s: how long to wait for them.
    """

    fsync: bool = False
    replicas: int = 0
    timeout_s: float = 3.0

    @property
    def wanted(self) -> bool:
        """Return whether acceptances wait at all."""
        return self.fsync or self.replicas > 0

    @property
    def command(self) -> tuple[Argument, ...]:
        """The command that waits for earlier writes on the same connection."""
        timeout_ms = max(1, int(self.timeout_s * 1000))  # zero would wait for ever
        if self.fsync:
            return ("WAITAOF", 1, self.replicas, timeout_ms)
        return ("WAIT", self.replicas, timeout_ms)

    def met_by(self, answer: Any) -> bool:
        """Return whether the command's answer meets the requirement."""
        if self.fsync:
            local, replicas = answer
            return bool(local >= 1 and replicas >= self.replicas)
        return bool(answer >= self.replicas)


class ConfirmedScript:
    """A script, followed by a wait until its writes are durable enough."""

    def __init__(self, clients: Clients, name: str, wait: AcceptWait) -> None:
        self._clients = clients
        self._source = scripts.source(name)
        self._digest = scripts.digest(name)
        self._wait = wait

    async def run(self, base: str, *arguments: Argument) -> tuple[Any, NotConfirmed | None]:
        """Run it, within a step, on the model whose keys begin with `base`.

        Returns:
            Its answer, and the error to raise if the wait failed.
        """
        async with self._clients.of(base) as redis:
            answer, waited = await self._send(redis, base, *arguments)
            if isinstance(answer, NoScriptError):
                await redis.script_load(self._source)
                answer, waited = await self._send(redis, base, *arguments)
            if isinstance(answer, Exception):
                raise answer
        if isinstance(waited, ResponseError):
            # No append-only file, or not the primary: the wait could never succeed.
            log.error("accept_wait_failed", error=str(waited))
            return answer, NotConfirmed("the queue cannot confirm what it stored")
        if not self._wait.met_by(waited):
            return answer, NotConfirmed(
                "the request was stored, but not confirmed in time; send it again", retry_after_s=1
            )
        return answer, None

    async def _send(self, redis: Redis, *arguments: Argument) -> list[Any]:
        async with redis.pipeline(transaction=False) as pipeline:
            pipeline.evalsha(self._digest, 1, *arguments)
            pipeline.execute_command(*self._wait.command)
            return list(await pipeline.execute(raise_on_error=False))
