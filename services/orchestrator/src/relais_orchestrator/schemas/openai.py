"""The OpenAI routes' requests. What is not listed here is refused by name."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, Field, StringConstraints, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from relais_common.jobs import OnDisconnect, Priority
from relais_orchestrator.schemas.messages import Messages, ModelName
from relais_orchestrator.schemas.sampling import MAX_TOKENS, STRICT, SamplingParams, TokenId


class StreamOptions(BaseModel):
    model_config = STRICT

    include_usage: bool = False


class _Common(SamplingParams):
    """Fields that both routes have; the last three are Relais's own."""

    model: ModelName
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: Literal[1] | None = None
    user: Annotated[str, StringConstraints(max_length=512)] | None = None
    priority: Priority = Priority.NORMAL
    deadline_s: float | None = Field(default=None, gt=0)
    on_disconnect: OnDisconnect = OnDisconnect.CANCEL

    @field_validator("stream_options")
    @classmethod
    def _options_need_stream(
        cls, options: StreamOptions | None, info: ValidationInfo
    ) -> StreamOptions | None:
        if options is not None and info.data.get("stream") is not True:
            raise PydanticCustomError("stream_options", "only for requests with stream: true")
        return options

    @property
    def include_usage(self) -> bool:
        return self.stream_options is not None and self.stream_options.include_usage


class ChatCompletionRequest(_Common):
    """`POST /v1/chat/completions`."""

    messages: Messages
    max_completion_tokens: int | None = Field(default=None, ge=1, le=MAX_TOKENS)


class CompletionRequest(_Common):
    """`POST /v1/completions`. A prompt is text, token ids, or a list of one text."""

    prompt: (
        Annotated[str, StringConstraints(min_length=1)]
        | Annotated[list[TokenId], Field(min_length=1)]
        | Annotated[
            list[Annotated[str, StringConstraints(min_length=1)]],
            Field(min_length=1, max_length=1),
        ]
    )
    max_tokens: int | None = Field(default=16, ge=1, le=MAX_TOKENS)
