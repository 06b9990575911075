"""Query strings and responses of the operators' routes."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, with_config
from typing_extensions import TypedDict

from relais_common.jobs.inspection import ChannelFilter, ChannelView, DeadLetter, QueueView
from relais_common.jobs.job import Status, WorkerState
from relais_orchestrator.api.native.answers import ChannelId, EstimatedWait, QueuePosition
from relais_orchestrator.api.schemas.closed import CLOSED
from relais_orchestrator.api.schemas.messages import ModelName


class AdminQuery(BaseModel):
    """One declared model, or all."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: ModelName | None = None


class PageQuery(AdminQuery):
    """At most `limit` items for each model."""

    limit: int = Field(default=50, ge=1, le=1000)


class ChannelsQuery(PageQuery):
    """Unfinished requests, by deadline."""

    status: ChannelFilter = ChannelFilter.ALL
    latest: bool = False


@with_config(CLOSED)
class QueuesResponse(TypedDict):
    queues: list[QueueView]


@with_config(CLOSED)
class WorkersResponse(TypedDict):
    workers: list[WorkerState]


@with_config(CLOSED)
class ChannelsResponse(TypedDict):
    channels: list[ChannelView]


@with_config(CLOSED)
class DeadLettersResponse(TypedDict):
    dead_letters: list[DeadLetter]


@with_config(CLOSED)
class ReplayedResponse(TypedDict):
    """The dead letter's request is queued again, on a new channel."""

    channel_id: ChannelId
    replay_of: str
    status: Status
    queue_position: QueuePosition
    estimated_wait_s: EstimatedWait


@with_config(CLOSED)
class DroppedResponse(TypedDict):
    channel_id: ChannelId
    dropped: Literal[True]
