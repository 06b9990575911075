"""The request body of `POST /v1/requests`."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self, cast

from pydantic import (
    ConfigDict,
    Field,
    JsonValue,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from relais_common.jobs.job import InputType, OnDisconnect, OnWorkerLoss, Operation, Priority
from relais_orchestrator.api.embeddings.schemas import Inputs
from relais_orchestrator.api.schemas.deployed import EMBEDS, WRITES_TEXT, Deadline
from relais_orchestrator.api.schemas.messages import Messages, ModelName, TemplateKwargs, fault
from relais_orchestrator.api.schemas.nulls import OrNull
from relais_orchestrator.api.schemas.numbers import Whole
from relais_orchestrator.api.schemas.priorities import RequestPriority
from relais_orchestrator.api.schemas.prompting import CONTINUES_ALONE, PromptFields
from relais_orchestrator.api.schemas.prompts import Prompts, check_answers
from relais_orchestrator.api.schemas.sampling import MAX_LOGPROBS, STRICT, SamplingParams
from relais_orchestrator.api.schemas.tools import NEEDS_TOOLS, ChatFields


class NativeParams(SamplingParams, PromptFields):
    """Sampling parameters, and what is told of the prompt: in a `prompt` event."""

    echo: bool | None = Field(default=None, description="Tell the text of a plain prompt.")

    logprobs: Annotated[int, Whole(0, MAX_LOGPROBS)] | None = Field(
        default=None,
        description="Tell each token's log probability, and those of so many of the likeliest in its place.",
    )


_OPERATIONS = {
    "messages": Operation.CHAT.value,
    "prompt": Operation.TEXT_COMPLETION.value,
    "input": Operation.EMBEDDINGS.value,
}
_GOES_WITH = {
    "input_type": "input",
    "dimensions": "input",
    **dict.fromkeys(("chat_template_kwargs", *ChatFields.model_fields), "messages"),
}


def _given(name: str) -> dict[str, Any]:
    return {"required": [name], "properties": {name: {"not": {"type": "null"}}}}


def _beside(name: str) -> dict[str, Any]:
    """A JSON schema that requires this field and excludes the others."""
    others = {one: {"type": "null"} for one, whose in _GOES_WITH.items() if whose != name}
    model = EMBEDS if name == "input" else WRITES_TEXT
    return {"operation": {"enum": [_OPERATIONS[name], None]}, "model": model, **others}


_RULES: list[JsonValue] = [
    NEEDS_TOOLS,
    CONTINUES_ALONE,
    *(
        cast("JsonValue", {"if": _given(name), "then": {"properties": _beside(name)}})
        for name in _OPERATIONS
    ),
]


class SubmitRequest(ChatFields, TemplateKwargs):
    """A request for the queue: `messages` for a chat, `prompt` for plain completion, or `input` for vectors."""

    model_config = STRICT | ConfigDict(
        json_schema_extra={
            "oneOf": [_given(name) for name in _OPERATIONS],
            "allOf": _RULES,
        }
    )

    model: ModelName
    messages: Messages | None = None
    prompt: Prompts | None = None
    input: Inputs | None = Field(
        default=None, description="As of `POST /v1/embeddings`; `params` have no effect on it."
    )
    input_type: InputType | None = None
    dimensions: Annotated[int, Whole(1, 65_536)] | None = None
    operation: Literal["chat", "text_completion", "embeddings"] | None = Field(
        default=None, description="What follows from the input; another one is refused."
    )
    params: OrNull[NativeParams] = NativeParams()
    priority: RequestPriority = Priority.NORMAL
    deadline_s: Deadline | None = None
    on_disconnect: OrNull[OnDisconnect] = OnDisconnect.CONTINUE
    on_worker_loss: OrNull[OnWorkerLoss] = OnWorkerLoss.FAIL

    @field_validator("params")
    @classmethod
    def _bounded(cls, params: NativeParams, info: ValidationInfo) -> NativeParams:
        try:
            check_answers(params.n, info.data.get("prompt"))
        except PydanticCustomError as error:
            raise fault("n", error) from None
        if params.echo and info.data.get("prompt") is None:
            raise fault("echo", PydanticCustomError("echo", "goes with prompt only"))
        return params

    @model_validator(mode="after")
    def _one_input(self) -> Self:
        given = [name for name in _OPERATIONS if getattr(self, name) is not None]
        if len(given) != 1:
            raise PydanticCustomError("one_input", "give exactly one of messages, prompt and input")
        if self.operation not in (None, _OPERATIONS[given[0]]):
            raise PydanticCustomError("operation", "operation does not go with what is given")
        for field, whose in _GOES_WITH.items():
            if whose != given[0] and getattr(self, field) is not None:
                raise PydanticCustomError(
                    "goes_with", "{field} goes with {whose} only", {"field": field, "whose": whose}
                )
        return self
