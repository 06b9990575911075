"""The loop that requeues a queue's jobs of dead workers, and ends those without time or readers.

Workers and orchestrators both run it, because there may be no worker left. Any number can run at once.
"""

from __future__ import annotations

import asyncio
import random

import structlog

from relais_common.jobs.channels import queue_model
from relais_common.jobs.errors import StoreUnavailable
from relais_common.queue.ports import Recovery
from relais_common.runtime.backoff import Backoff

log = structlog.get_logger(__name__)

BATCH = 200


async def reap_for_ever(
    recovery: Recovery,
    queue: str,
    *,
    every_s: float,
    max_failures: int,
    outage_grace_s: float,
) -> None:
    """Reap every `every_s` seconds.

    Args:
        outage_grace_s: how long to pause once Redis is back after an outage, so that living workers,
            which could not renew meanwhile, keep their jobs; should be one lease.
    """
    backoff = Backoff()
    while True:
        await asyncio.sleep(every_s * random.uniform(0.5, 1.0))
        try:
            reaped = await recovery.reap(queue, max_failures=max_failures, limit=BATCH)
            if reaped.requeued or reaped.ended:
                log.info(
                    "jobs_reaped",
                    model=queue_model(queue),
                    requeued=reaped.requeued,
                    ended=reaped.ended,
                )
            backoff.reset()
        except StoreUnavailable:
            await _until_back(recovery, queue, backoff, max_failures)
            await asyncio.sleep(outage_grace_s)


async def _until_back(recovery: Recovery, model: str, backoff: Backoff, max_failures: int) -> None:
    while True:
        await backoff.pause()
        try:
            # A limit of zero checks that Redis answers, and changes nothing.
            await recovery.reap(model, max_failures=max_failures, limit=0)
        except StoreUnavailable:
            continue
        return
