"""Deletes files whose time is over."""

from __future__ import annotations

import asyncio

import structlog

from relais_common.jobs.errors import FilesUnavailable
from relais_orchestrator.files.store import EXPIRED_AT_ONCE, FileStore

log = structlog.get_logger(__name__)

EVERY_S = 60.0


async def expire_files(store: FileStore) -> None:
    """Delete expired files for ever; any number of orchestrators may."""
    while True:
        try:
            while (deleted := await store.expire()) > 0:
                log.info("files_expired", files=deleted)
                if deleted < EXPIRED_AT_ONCE:
                    break
        except FilesUnavailable:
            log.debug("files_not_expired")
        await asyncio.sleep(EVERY_S)
