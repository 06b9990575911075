"""Typed application keys of the objects that handlers share."""

from __future__ import annotations

from dataclasses import dataclass

from aiohttp import web

from relais_common.queue.ports import Accounts, Inspector, JobIntake, WorkerRegistry
from relais_orchestrator.access.auth import EventsUrlSigner, KeyRing
from relais_orchestrator.files.store import FileStore
from relais_orchestrator.responses.store import ResponseStore
from relais_orchestrator.settings import Settings
from relais_orchestrator.streams.drain import Drain
from relais_orchestrator.streams.follow import Follower
from relais_orchestrator.streams.open_streams import Streams
from relais_orchestrator.streams.watcher import Watcher
from relais_orchestrator.submission.catalogue import Catalogue
from relais_orchestrator.submission.images import Images
from relais_orchestrator.submission.model_states import ModelStates
from relais_orchestrator.submission.reading.readers import Readers
from relais_orchestrator.submission.submitter import Submitter


@dataclass(frozen=True, slots=True)
class Parts:
    """Everything that a handler may need, built once in `app.py`."""

    settings: Settings
    queue: JobIntake
    inspector: Inspector
    registry: WorkerRegistry
    catalogue: Catalogue
    model_states: ModelStates
    images: Images
    submitter: Submitter
    follower: Follower
    watcher: Watcher
    key_ring: KeyRing
    signer: EventsUrlSigner
    drain: Drain
    streams: Streams
    readers: Readers
    accounts: Accounts
    files: FileStore | None
    responses: ResponseStore | None
    started_at_s: int


PARTS: web.AppKey[Parts] = web.AppKey("parts", Parts)
