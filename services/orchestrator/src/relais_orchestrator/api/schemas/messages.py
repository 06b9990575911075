"""Chat messages: text, tool calls and their results, with the roles that chat templates know."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    StringConstraints,
    ValidationError,
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError

from relais_common.jobs import chat
from relais_common.jobs.chat import FunctionCall, Message, ToolCall
from relais_orchestrator.api.schemas.branches import TAGGED, branch
from relais_orchestrator.api.schemas.hints import CachedPart, Parsed
from relais_orchestrator.api.schemas.images import ImagePart, few_images
from relais_orchestrator.api.schemas.nested_json import Arguments
from relais_orchestrator.api.schemas.sampling import STRICT
from relais_orchestrator.api.schemas.structure_bounds import json_bytes
from relais_orchestrator.api.schemas.unsupported import NotSupported

MAX_MESSAGES = 2048
MAX_PARTS = 2048
"""Of one message."""

MAX_CALLS = 128
"""Tool calls of one message."""

MAX_TEMPLATE_BYTES = 65_536
"""Of `chat_template_kwargs`, as JSON."""

MAX_MODEL_NAME = 160
ModelName = Annotated[str, StringConstraints(min_length=1, max_length=MAX_MODEL_NAME)]


CallId = Annotated[str, StringConstraints(min_length=1, max_length=256)]


class TextPart(CachedPart):
    type: Literal["text"]
    text: str


Empty = Annotated[list[Any], Field(fail_fast=True, max_length=0)]


class CalledFunction(BaseModel):
    model_config = STRICT

    name: Annotated[str, StringConstraints(min_length=1, max_length=256)]
    arguments: Arguments
    parsed_arguments: Parsed = None


class CalledTool(BaseModel):
    model_config = STRICT

    id: CallId
    type: Literal["function"]
    function: CalledFunction
    index: int | None = Field(
        default=None, description="No effect: its place, which clients keep of a stream's chunks."
    )


NO_ITEMS: dict[str, JsonValue] = {"maxItems": 0}
NO_TEXT: dict[str, JsonValue] = {"maxLength": 0}


def _only_of(role: str, **without: JsonValue) -> dict[str, JsonValue]:
    """A JSON schema in which only messages of this role have these fields; in others they are null or empty."""
    return {"anyOf": [{"properties": {"role": {"const": role}}}, {"properties": without}]}


def _only_for(role: str) -> PydanticCustomError:
    return PydanticCustomError("role", "only in messages of role {role}", {"role": role})


def fault(field: str, kind: str | PydanticCustomError, *inner: str | int) -> ValidationError:
    """A fault of this field, or of what is in it. A validator of the whole object can raise it."""
    details = InitErrorDetails(type=kind, loc=(field, *inner), input=None)
    return ValidationError.from_exception_data("fields", [details])


class ChatMessage(BaseModel):
    """A message of a chat. An answer's `message` may be sent back unchanged, with the empty fields that servers add."""

    model_config = STRICT | ConfigDict(
        json_schema_extra={
            "allOf": [
                _only_of(
                    "assistant", tool_calls=NO_ITEMS, reasoning=NO_TEXT, reasoning_content=NO_TEXT
                ),
                _only_of("tool", tool_call_id={"type": "null"}),
                {
                    "anyOf": [
                        {"properties": {"role": {"const": "assistant"}}},
                        {
                            "required": ["content"],
                            "properties": {"content": {"not": {"type": "null"}}},
                        },
                    ]
                },
                {
                    "anyOf": [
                        {"properties": {"role": {"not": {"const": "tool"}}}},
                        {
                            "required": ["tool_call_id"],
                            "properties": {"tool_call_id": {"type": "string"}},
                        },
                    ]
                },
            ]
        }
    )

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: (
        Annotated[str, branch("text")]
        | Annotated[
            list[Annotated[TextPart | ImagePart, Field(discriminator="type")]],
            Field(fail_fast=True, min_length=1, max_length=MAX_PARTS),
            branch(TAGGED),
        ]
        | None
    ) = Field(default=None, description="Only an assistant's message may have none.")
    name: Annotated[str, StringConstraints(min_length=1, max_length=256)] | None = Field(
        default=None, description="For chat templates that know names; others ignore it."
    )
    annotations: Annotated[list[Any], Field(fail_fast=True, max_length=MAX_PARTS)] | None = Field(
        default=None, description="No effect: where an answer found what it says."
    )
    stretches: Annotated[list[Any], Field(fail_fast=True, max_length=MAX_PARTS)] | None = Field(
        default=None, description="No effect: how an answer's parts alternated."
    )
    refusal: Annotated[Literal[""] | None, NotSupported("refusals are not supported")] = None
    tool_calls: Annotated[list[CalledTool], Field(fail_fast=True, max_length=MAX_CALLS)] | None = (
        Field(default=None, description="What an earlier answer called.")
    )
    tool_call_id: CallId | None = Field(
        default=None, description="The call whose result a message of role `tool` is."
    )
    reasoning: str | None = Field(
        default=None, description="Of an earlier answer; chat templates may show it to the model."
    )
    reasoning_content: str | None = Field(default=None, description="The older name of it.")
    function_call: Annotated[None, NotSupported("function calls are not supported")] = None
    audio: Annotated[None, NotSupported("audio is not supported")] = None
    images: Annotated[Empty | None, NotSupported("send images as parts of the content")] = None
    parsed: Parsed = None
    reasoning_details: Annotated[Empty | None, NotSupported("reasoning is not supported")] = None
    thinking_blocks: Annotated[Empty | None, NotSupported("reasoning is not supported")] = None
    provider_specific_fields: Annotated[
        Annotated[dict[str, Any], Field(max_length=0)] | None,
        NotSupported("only the message itself is read"),
    ] = None

    @model_validator(mode="after")
    def _fields_of_its_role(self) -> Self:
        if self.role != "assistant":
            if self.content is None:
                raise fault(
                    "content", "string_type" if "content" in self.model_fields_set else "missing"
                )
            for name in ("tool_calls", "reasoning", "reasoning_content"):
                if getattr(self, name):
                    raise fault(name, _only_for("assistant"))
        if self.role == "tool" and self.tool_call_id is None:
            raise fault("tool_call_id", "missing")
        if self.role != "tool" and self.tool_call_id is not None:
            raise fault("tool_call_id", _only_for("tool"))
        return self

    @property
    def images_count(self) -> int:
        """How many images the content has."""
        parts = self.content if isinstance(self.content, list) else ()
        return sum(isinstance(part, ImagePart) for part in parts)

    def to_message(self) -> Message:
        """Convert to the job's type."""
        content: str | tuple[chat.TextPart | chat.ImagePart, ...] | None
        if not isinstance(self.content, list):
            content = self.content
        elif self.images_count:
            content = tuple(
                part.to_part() if isinstance(part, ImagePart) else chat.TextPart(part.text)
                for part in self.content
            )
        else:
            content = "".join(part.text for part in self.content if isinstance(part, TextPart))
        return Message(
            # `developer` is OpenAI's newer word for the role that chat templates call `system`.
            "system" if self.role == "developer" else self.role,
            content,
            self.name,
            self.reasoning or self.reasoning_content or None,
            tuple(
                ToolCall(one.id, FunctionCall(one.function.name, one.function.arguments))
                for one in self.tool_calls or ()
            ),
            self.tool_call_id,
        )


TemplateName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,63}$")]


def fits_a_template(told: dict[str, Any]) -> dict[str, Any]:
    """Refuse values that are longer than a template can need, or that a job cannot carry."""
    if json_bytes(told) > MAX_TEMPLATE_BYTES:
        raise PydanticCustomError("too_long", f"at most {MAX_TEMPLATE_BYTES} bytes of JSON")
    return told


class TemplateKwargs(BaseModel):
    """On chats."""

    model_config = STRICT

    chat_template_kwargs: (
        Annotated[
            dict[TemplateName, Any],
            # Pydantic documents the allowed names, but not that other names are refused.
            Field(max_length=16, json_schema_extra={"additionalProperties": False}),
            AfterValidator(fits_a_template),
        ]
        | None
    ) = Field(
        default=None,
        description="What the model's chat template is told beside the messages, by the names that it knows: "
        'vLLM\'s field, as in `{"enable_thinking": false}`.',
    )


def _few_images(messages: list[ChatMessage]) -> list[ChatMessage]:
    few_images(sum(one.images_count for one in messages))
    return messages


Messages = Annotated[
    list[ChatMessage],
    Field(fail_fast=True, min_length=1, max_length=MAX_MESSAGES),
    AfterValidator(_few_images),
]
