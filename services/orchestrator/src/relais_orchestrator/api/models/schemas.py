"""The query of `GET /v1/models`."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from relais_orchestrator.api.schemas.messages import ModelName


class ModelsQuery(BaseModel):
    """For Anthropic's form; OpenAI's has all models at once."""

    model_config = ConfigDict(frozen=True)

    limit: int = Field(default=20, ge=1, le=1000)
    after_id: ModelName | None = Field(default=None, description="Begin after this model.")
    before_id: ModelName | None = Field(default=None, description="End before this model.")
