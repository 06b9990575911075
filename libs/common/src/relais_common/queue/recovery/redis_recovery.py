"""`Recovery` over Redis."""

from __future__ import annotations

import time

import structlog

from relais_common.jobs.errors import StoreUnavailable
from relais_common.queue import keys
from relais_common.queue.client.calls import Commands
from relais_common.queue.client.connection import store_errors
from relais_common.queue.client.scripting import Scripts
from relais_common.queue.ports import Reaped
from relais_common.queue.script_values import parting

log = structlog.get_logger(__name__)

LATEST_S = 2.0
"""How late a pass may be carried out. A server that was frozen finds older ones in its sockets, all leases over."""
STOOD_STILL = "the queue stood still"


class RedisRecovery:
    """The reaper's step."""

    def __init__(self, calls: Commands, scripts: Scripts) -> None:
        self._calls = calls
        self._scripts = scripts

    async def reap(self, model: str, *, max_failures: int, limit: int) -> Reaped:
        asked_s = time.monotonic()
        with store_errors():
            seconds, microseconds = await self._calls.send("TIME")
        if time.monotonic() - asked_s > LATEST_S / 2:
            raise StoreUnavailable(STOOD_STILL, retry_after_s=2)
        answer = await self._scripts.run(
            "reap",
            keys.model_base(model),
            limit,
            *parting(max_failures),
            f"{int(seconds) + int(microseconds) / 1e6 + LATEST_S:.6f}",
        )
        if answer is None:
            raise StoreUnavailable(STOOD_STILL, retry_after_s=2)
        requeued, ended, problem = answer
        if problem:
            log.error("reap_failed", model=model, error=problem.decode(errors="replace"))
        return Reaped(requeued=requeued, ended=ended)
