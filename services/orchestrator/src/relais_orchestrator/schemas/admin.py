"""Query strings of the operators' routes."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from relais_common.operations import ChannelFilter
from relais_orchestrator.schemas.messages import ModelName


class AdminQuery(BaseModel):
    """Of one declared model, or of all."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: ModelName | None = None


class PageQuery(AdminQuery):
    """At most `limit` of each model."""

    limit: int = Field(default=50, ge=1, le=1000)


class ChannelsQuery(PageQuery):
    """Living requests, by deadline."""

    status: ChannelFilter = ChannelFilter.ALL
    latest: bool = False
