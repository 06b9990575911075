"""`Recovery` over Redis."""

from __future__ import annotations

import time

import structlog

from relais_common.jobs.channels import queue_model
from relais_common.jobs.errors import StoreUnavailable
from relais_common.queue import keys
from relais_common.queue.client.scripting import Scripts
from relais_common.queue.ports import Reaped
from relais_common.queue.script_values import parting

log = structlog.get_logger(__name__)

LATEST_S = 2.0
"""Reject reap calls older than this: a Redis that was frozen would otherwise expire every lease."""
STOOD_STILL = "the queue stood still"

MOST_SKEW_S = 2.0
"""Difference between the clocks of a model's Redis and of this process that is tolerated without a warning."""

_CLOCK = "return redis.call('TIME')"
"""Has the model's key, so that a cluster asks the node whose clock the reaper's script uses."""


class RedisRecovery:
    """The reaper's step."""

    def __init__(self, scripts: Scripts) -> None:
        self._scripts = scripts
        self._skewed: set[str] = set()

    async def reap(self, model: str, *, max_failures: int, limit: int) -> Reaped:
        with self._scripts.step("reap"):
            asked_s = time.monotonic()
            seconds, microseconds = await self._scripts.calls.send(
                "EVAL", _CLOCK, 1, keys.model_base(model)
            )
            took_s = time.monotonic() - asked_s
            if took_s > LATEST_S / 2:
                raise StoreUnavailable(STOOD_STILL, retry_after_s=2)
            now_s = int(seconds) + int(microseconds) / 1e6
            self._compare_clocks(model, now_s, took_s)
            answer = await self._scripts.evaluate(
                "reap",
                keys.model_base(model),
                limit,
                *parting(max_failures),
                f"{now_s + LATEST_S:.6f}",
            )
            if answer is None:
                raise StoreUnavailable(STOOD_STILL, retry_after_s=2)
        requeued, ended, problem = answer
        if problem:
            log.error(
                "reap_failed", model=queue_model(model), error=problem.decode(errors="replace")
            )
        reaped = Reaped(requeued=requeued, ended=ended)
        if self._scripts.metrics is not None:
            self._scripts.metrics.reaped(reaped)
        return reaped

    def _compare_clocks(self, model: str, redis_s: float, took_s: float) -> None:
        """Warn once when a model's Redis and this process begin to disagree on the time.

        Leases and deadlines use Redis's clock. In a cluster, each node is compared with this process.
        """
        ahead_s = redis_s - time.time()
        if abs(ahead_s) <= MOST_SKEW_S + took_s:
            self._skewed.discard(model)
        elif model not in self._skewed:
            self._skewed.add(model)
            log.warning("clocks_differ", model=queue_model(model), redis_ahead_s=round(ahead_s, 3))
