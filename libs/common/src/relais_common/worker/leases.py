"""Renews leases, and listens for stop requests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

import structlog

from relais_common.jobs.errors import StoreUnavailable
from relais_common.queue.ports import ANY_LINE, JobSource
from relais_common.runtime.backoff import Backoff
from relais_common.runtime.lifecycle import first_failure
from relais_common.worker.held import HeldJob, HeldJobs
from relais_common.worker.publisher import Publisher

log = structlog.get_logger(__name__)


async def renew_for_ever(
    source: JobSource, held_jobs: HeldJobs, publisher: Publisher, *, lease_s: float
) -> None:
    """Renew every lease three times within its length, and apply the queue's verdicts."""
    while True:
        await asyncio.sleep(lease_s / 3)
        batch = held_jobs.all()
        try:
            await _renew(source, batch, lease_s=lease_s)
        except StoreUnavailable:
            log.warning("lease_renewal_failed", jobs=len(batch))
            continue
        for held in batch:
            if held.has_unsent:
                publisher.send(held)


async def listen_for_stops(
    source: JobSource, held_jobs: HeldJobs, model: str, *, lease_s: float
) -> None:
    """Stop jobs as soon as requested, and ask lines of batches for their places. Either is made up for if it is lost.

    Requests that arrive during one call are batched in the next; one at a time, jobs that are cancelled in bulk
    would hold their places for as many round trips.
    """
    backoff = Backoff()
    while True:
        try:
            async with source.stop_requests(model) as channel_ids:
                backoff.reset()
                await _heed_stops(source, held_jobs, channel_ids, lease_s=lease_s)
        except StoreUnavailable:
            await backoff.pause()


async def _heed_stops(
    source: JobSource, held_jobs: HeldJobs, channel_ids: AsyncIterator[str], *, lease_s: float
) -> None:
    asked: set[HeldJob] = set()
    came = asyncio.Event()

    async def hear() -> None:
        async for channel_id in channel_ids:
            if channel_id == ANY_LINE:
                held_jobs.ask_lines()
                continue
            held = held_jobs.get(channel_id)
            if held is not None:
                asked.add(held)
                came.set()

    async def heed() -> None:
        while True:
            await came.wait()
            came.clear()
            batch = list(asked)
            asked.clear()
            await _renew(source, batch, lease_s=lease_s)

    await first_failure(hear(), heed())


async def _renew(source: JobSource, batch: Sequence[HeldJob], *, lease_s: float) -> None:
    # Some may be starting meanwhile, and the answers come over different connections.
    bases = [held.base for held in batch]
    verdicts = await source.renew([held.lease for held in batch], lease_s=lease_s)
    for held, verdict, base in zip(batch, verdicts, bases, strict=True):
        held.heed(verdict, base=base)
