"""What the modules that run batches share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from aiohttp import web

from relais_orchestrator.app_keys import Parts
from relais_orchestrator.batches.endpoints import Endpoint
from relais_orchestrator.batches.store import BatchStore
from relais_orchestrator.files.store import FileStore


@dataclass(frozen=True, slots=True)
class BatchParts:
    """The parts of an orchestrator that runs batches, built once in `app.py`.

    Attributes:
        endpoints: the routes that batches may use, by path.
    """

    shared: Parts
    files: FileStore
    store: BatchStore
    endpoints: Mapping[str, Endpoint]


BATCHES: web.AppKey[BatchParts] = web.AppKey("batches", BatchParts)
"""Not set if this deployment keeps no batches."""
