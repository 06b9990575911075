"""The loop that brings back what dead workers held, and ends what ran out of time or readers.

Workers and orchestrators both run it: there may be no worker left. Any number at once is safe.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence

import structlog

from relais_common.jobs.errors import StoreUnavailable
from relais_common.queue.ports import Recovery
from relais_common.runtime.backoff import Backoff

log = structlog.get_logger(__name__)

BATCH = 200


async def reap_for_ever(
    recovery: Recovery,
    models: Sequence[str],
    *,
    every_s: float,
    max_failures: int,
    outage_grace_s: float,
) -> None:
    """Reap every `every_s` seconds.

    Args:
        outage_grace_s: how long to hold still once Redis is back after an outage, so that living workers,
            which could not renew meanwhile, keep their jobs; one lease is right.
    """
    backoff = Backoff()
    while True:
        await asyncio.sleep(every_s * random.uniform(0.5, 1.0))
        try:
            for model in models:
                reaped = await recovery.reap(model, max_failures=max_failures, limit=BATCH)
                if reaped.requeued or reaped.ended:
                    log.info(
                        "jobs_reaped", model=model, requeued=reaped.requeued, ended=reaped.ended
                    )
            backoff.reset()
        except StoreUnavailable:
            await _until_back(recovery, models[0], backoff, max_failures)
            await asyncio.sleep(outage_grace_s)


async def _until_back(recovery: Recovery, model: str, backoff: Backoff, max_failures: int) -> None:
    while True:
        await backoff.pause()
        try:
            # A limit of zero asks whether Redis answers, and touches nothing.
            await recovery.reap(model, max_failures=max_failures, limit=0)
        except StoreUnavailable:
            continue
        return
