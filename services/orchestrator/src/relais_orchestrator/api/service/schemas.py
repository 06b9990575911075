"""Responses of the health probes."""

from __future__ import annotations

from typing import Literal

from pydantic import with_config
from typing_extensions import TypedDict

from relais_orchestrator.api.schemas.closed import CLOSED


@with_config(CLOSED)
class Alive(TypedDict):
    status: Literal["ok"]


@with_config(CLOSED)
class Ready(TypedDict):
    status: Literal["ready"]


@with_config(CLOSED)
class NotReady(TypedDict):
    status: Literal["not ready"]
    reason: str
