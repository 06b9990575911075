"""Typed keys of what the handlers share."""

from __future__ import annotations

from dataclasses import dataclass

from aiohttp import web

from relais_common.ports import Accounts, JobIntake, Operations, WorkerRegistry
from relais_orchestrator.auth import EventsUrlSigner, KeyRing
from relais_orchestrator.catalogue import Catalogue
from relais_orchestrator.drain import Drain
from relais_orchestrator.follow import Follower
from relais_orchestrator.held import HeldBytes
from relais_orchestrator.intake import Intake
from relais_orchestrator.kpi_reader import KpiReader
from relais_orchestrator.model_states import ModelStates
from relais_orchestrator.reading.readers import Readers
from relais_orchestrator.settings import Settings
from relais_orchestrator.streams import Streams
from relais_orchestrator.watcher import Watcher


@dataclass(frozen=True, slots=True)
class Parts:
    """Everything a handler may need, joined once in `app.py`."""

    settings: Settings
    queue: JobIntake
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
    readers: Readers
    held: HeldBytes
    accounts: Accounts
    kpis: KpiReader | None
    started_at_s: int


PARTS: web.AppKey[Parts] = web.AppKey("parts", Parts)
