"""Typed keys of what the handlers share."""

from __future__ import annotations

from dataclasses import dataclass

from aiohttp import web

from relais_common.errors import ChannelNotFound, LogRewound, StoreUnavailable
from relais_common.jobs import ChannelState
from relais_common.ports import Accounts, EventLog, JobIntake, Operations, WorkerRegistry
from relais_orchestrator.auth import EventsUrlSigner, KeyRing
from relais_orchestrator.catalogue import Catalogue
from relais_orchestrator.drain import Drain
from relais_orchestrator.follow import Follower
from relais_orchestrator.intake import Intake
from relais_orchestrator.model_states import ModelStates
from relais_orchestrator.settings import Settings
from relais_orchestrator.streams import Streams
from relais_orchestrator.watcher import Watcher


@dataclass(frozen=True, slots=True)
class Parts:
    """Everything a handler may need, joined once in `app.py`."""

    settings: Settings
    queue: JobIntake
    event_log: EventLog
    operations: Operations
    registry: WorkerRegistry
    catalogue: Catalogue
    model_states: ModelStates
    intake: Intake
    follower: Follower
    watcher: Watcher
    key_ring: KeyRing
    signer: EventsUrlSigner
    drain: Drain
    streams: Streams
    accounts: Accounts
    started_at_s: int

    async def glance(self, channel_id: str) -> ChannelState | None:
        """Where a silent channel stands; None while the store is away.

        Raises:
            ChannelNotFound: the channel has left the store for good.
        """
        try:
            state = await self.queue.state(channel_id)
        except StoreUnavailable:
            return None
        if state is None:
            raise ChannelNotFound("the request is no longer known", param="channel_id")
        return state

    async def is_compacted(self, state: ChannelState, position: int) -> bool:
        """Whether the channel has ended, and its events after `position` can no longer be read.

        Raises:
            LogRewound: it ended short of `position`.
        """
        if not state.status.is_terminal:
            return False
        if state.tail < position:
            raise LogRewound("the log lost its last events, and the request ended without them")
        try:
            return not await self.event_log.read(state.channel_id, after=position, limit=1)
        except StoreUnavailable:
            return False


PARTS: web.AppKey[Parts] = web.AppKey("parts", Parts)
