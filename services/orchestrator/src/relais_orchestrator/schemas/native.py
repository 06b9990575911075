"""`POST /v1/requests`."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator
from pydantic_core import PydanticCustomError

from relais_common.jobs import OnDisconnect, OnWorkerLoss, Priority
from relais_orchestrator.schemas.messages import Messages, ModelName
from relais_orchestrator.schemas.sampling import MAX_LOGPROBS, STRICT, SamplingParams, TokenId

Prompt = (
    Annotated[str, StringConstraints(min_length=1)] | Annotated[list[TokenId], Field(min_length=1)]
)


class NativeParams(SamplingParams):
    """Sampling parameters."""

    logprobs: int | None = Field(
        default=None,
        ge=0,
        le=MAX_LOGPROBS,
        description="Tell each token's log probability, and those of so many of the likeliest in its place.",
    )


class SubmitRequest(BaseModel):
    """A request for the queue: `messages` for a chat, or `prompt` (text or token ids) for plain completion."""

    model_config = STRICT | ConfigDict(
        json_schema_extra={
            "oneOf": [
                {"required": [name], "properties": {name: {"not": {"type": "null"}}}}
                for name in ("messages", "prompt")
            ]
        }
    )

    model: ModelName
    messages: Messages | None = None
    prompt: Prompt | None = None
    params: NativeParams = NativeParams()
    priority: Priority = Priority.NORMAL
    deadline_s: float | None = Field(default=None, gt=0)
    on_disconnect: OnDisconnect = OnDisconnect.CONTINUE
    on_worker_loss: OnWorkerLoss = OnWorkerLoss.FAIL

    @model_validator(mode="after")
    def _one_input(self) -> Self:
        if (self.messages is None) == (self.prompt is None):
            raise PydanticCustomError("one_input", "give exactly one of messages and prompt")
        return self
