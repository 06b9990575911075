"""Typed keys of what the handlers share."""

from __future__ import annotations

from dataclasses import dataclass

from aiohttp import web

from relais_common.errors import StoreUnavailable
from relais_common.ports import EventLog, JobIntake
from relais_orchestrator.auth import EventsUrlSigner, KeyRing
from relais_orchestrator.drain import Drain
from relais_orchestrator.follow import Follower
from relais_orchestrator.intake import Intake
from relais_orchestrator.settings import Settings
from relais_orchestrator.watcher import Watcher


@dataclass(frozen=True, slots=True)
class Parts:
    """Everything a handler may need, joined once in `app.py`."""

    settings: Settings
    queue: JobIntake
    event_log: EventLog
    intake: Intake
    follower: Follower
    watcher: Watcher
    key_ring: KeyRing
    signer: EventsUrlSigner
    drain: Drain
    started_at_s: int

    async def gone(self, channel_id: str) -> bool:
        """Whether a channel has left the store for good."""
        try:
            return await self.queue.state(channel_id) is None
        except StoreUnavailable:
            return False


PARTS: web.AppKey[Parts] = web.AppKey("parts", Parts)
