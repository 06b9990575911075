"""Reports that this worker is alive, and its capacity."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog

from relais_common.jobs.errors import StoreUnavailable
from relais_common.jobs.job import WorkerState
from relais_common.queue.ports import WorkerRegistry

log = structlog.get_logger(__name__)


async def beat_for_ever(
    registry: WorkerRegistry, state: Callable[[], WorkerState], *, every_s: float
) -> None:
    """Send a heartbeat every `every_s` seconds; after three missed ones the worker counts as gone."""
    try:
        while True:
            try:
                await registry.beat(state(), ttl_s=3 * every_s)
            except StoreUnavailable:
                log.warning("heartbeat_failed")
            await asyncio.sleep(every_s)
    finally:
        try:
            async with asyncio.timeout(1):
                await registry.leave(state().worker_id)
        except (StoreUnavailable, TimeoutError):
            log.debug("deregistration_failed")
