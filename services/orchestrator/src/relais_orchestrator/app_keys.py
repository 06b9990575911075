"""Typed keys of what the handlers share."""

from __future__ import annotations

from dataclasses import dataclass

from aiohttp import web

from relais_common.errors import ChannelNotFound, LogRewound, StoreUnavailable
from relais_common.jobs import ChannelState
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

    async def compacted_end(self, channel_id: str, position: int) -> ChannelState | None:
        """How a channel ended whose events after `position` can no longer be read; None while it goes on.

        Raises:
            ChannelNotFound: the channel has left the store for good.
            LogRewound: it ended short of `position`.
        """
        try:
            state = await self.queue.state(channel_id)
            if state is None:
                raise ChannelNotFound("the request is no longer known", param="channel_id")
            if not state.status.is_terminal:
                return None
            if state.tail < position:
                raise LogRewound("the log lost its last events, and the request ended without them")
            left = await self.event_log.read(channel_id, after=position, limit=1)
        except StoreUnavailable:
            return None
        return None if left else state


PARTS: web.AppKey[Parts] = web.AppKey("parts", Parts)
