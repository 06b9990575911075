"""A lock for one run at a time, with a fence in case two run at once after all.

The document `rollup` of `kpi_state` has the holder, the expiry, and the number of the run: its fence. Every write of
a run carries the fence and replaces only what an earlier run wrote. A run that was frozen past its lock therefore
cannot undo what the next one wrote. The next run reads no hour before it holds the lock, and traces recorded after
that are considered again by the following run, so nothing that the frozen run saw and could not write is missed.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import Any

from relais_common.insights.mongo import Database, DuplicateKeyError, PyMongoError
from relais_common.insights.store import STATE

LOCK = "rollup"
LASTS = timedelta(seconds=60)
"""How long the next run may have to wait after a run that was killed."""

RENEW_EVERY_S = 10.0


class LockHeld(Exception):
    """Another run is active. Names the holder and the expiry of its lock."""


class Superseded(Exception):
    """A later run has taken over; this one must not write any more."""


class Lock:
    """The lock of a run, on this machine's clock. If clocks differ, the fence still protects."""

    def __init__(
        self, database: Database, document: Mapping[str, Any], now: Callable[[], datetime]
    ) -> None:
        self._states = database[STATE]
        self._now = now
        self._renewed_at = time.monotonic()
        self.fence: int = document["fence"]
        self.watermark: datetime | None = document.get("watermark")

    async def renew_if_due(self) -> None:
        """Extend the lock if necessary. Raises Superseded."""
        if time.monotonic() - self._renewed_at > RENEW_EVERY_S:
            self._renewed_at = time.monotonic()
            await self._update({"expires_at": self._now() + LASTS})

    async def done(self, *, watermark: datetime | None, rolled_up_to: datetime) -> None:
        """Store the watermark, where the next run begins and which reports show. Raises Superseded."""
        await self._update({"watermark": watermark, "rolled_up_to": rolled_up_to})

    async def release(self) -> None:
        """Release the lock. The fence stays, and the next run increments it."""
        await self._states.update_one(
            {"_id": LOCK, "fence": self.fence}, {"$set": {"expires_at": self._now()}}
        )

    async def _update(self, fields: Mapping[str, Any]) -> None:
        done = await self._states.update_one(
            {"_id": LOCK, "fence": self.fence}, {"$set": dict(fields)}
        )
        if not done.matched_count:
            raise Superseded("another run has taken over")


@asynccontextmanager
async def hold_lock(database: Database, now: Callable[[], datetime]) -> AsyncIterator[Lock]:
    """Hold the lock during the context. Raises LockHeld."""
    moment = now()
    holder = f"{socket.gethostname()}:{os.getpid()}"
    taking = asyncio.ensure_future(
        database[STATE].find_one_and_update(
            {"_id": LOCK, "expires_at": {"$lte": moment}},
            {"$set": {"holder": holder, "expires_at": moment + LASTS}, "$inc": {"fence": 1}},
            upsert=True,
            return_document=True,
        )
    )
    try:
        document = await asyncio.shield(taking)
    except asyncio.CancelledError:
        # The server may take it all the same.
        with suppress(PyMongoError):
            await Lock(database, await taking, now).release()
        raise
    except DuplicateKeyError:
        held = await database[STATE].find_one({"_id": LOCK}) or {}
        until = held.get("expires_at", moment).astimezone(UTC)
        raise LockHeld(
            f"{held.get('holder', 'another run')} is at work; its lock lasts until {until:%H:%M:%S} UTC"
        ) from None
    lock = Lock(database, document, now)
    try:
        yield lock
    finally:
        # If that fails too, the lock expires by itself.
        with suppress(PyMongoError):
            await lock.release()
