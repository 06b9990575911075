"""Deletes files whose time is over."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from relais_common.jobs.errors import FilesUnavailable
from relais_orchestrator.files.store import EXPIRED_AT_ONCE, FileStore

log = structlog.get_logger(__name__)

EVERY_S = 60.0


async def expire_files(store: FileStore, in_use: Callable[[], Awaitable[list[str]]]) -> None:
    """Delete expired files for ever; any number of orchestrators may.

    Args:
        in_use: returns files that are kept whatever their time.
    """
    while True:
        try:
            while (deleted := await store.expire(in_use=await in_use())) > 0:
                log.info("files_expired", files=deleted)
                if deleted < EXPIRED_AT_ONCE:
                    break
        except FilesUnavailable:
            log.debug("files_not_expired")
        await asyncio.sleep(EVERY_S)
