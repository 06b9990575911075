"""Chat messages: text only, with the roles that chat templates know."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import orjson
from pydantic import AfterValidator, BaseModel, Field, StringConstraints
from pydantic_core import PydanticCustomError

from relais_common.jobs.job import Message
from relais_orchestrator.api.schemas.branches import branch
from relais_orchestrator.api.schemas.sampling import STRICT, fits_the_wire
from relais_orchestrator.api.schemas.unsupported import NotSupported

MAX_MESSAGES = 2048
MAX_PARTS = 2048
"""Of one message."""

MAX_TEMPLATE_BYTES = 65_536
"""Of `chat_template_kwargs`, as JSON."""

MAX_MODEL_NAME = 160
ModelName = Annotated[str, StringConstraints(min_length=1, max_length=MAX_MODEL_NAME)]


class TextPart(BaseModel):
    model_config = STRICT

    type: Literal["text"]
    text: str


Empty = Annotated[list[Any], Field(fail_fast=True, max_length=0)]


class ChatMessage(BaseModel):
    """A message of a chat. An answer's `message` may be sent back unchanged, with the empty fields that servers add."""

    model_config = STRICT

    role: Literal["system", "developer", "user", "assistant"]
    content: (
        Annotated[str, branch("text")]
        | Annotated[
            list[TextPart],
            Field(fail_fast=True, min_length=1, max_length=MAX_PARTS),
            branch("parts"),
        ]
    )
    name: Annotated[str, StringConstraints(min_length=1, max_length=256)] | None = Field(
        default=None, description="For chat templates that know names; others ignore it."
    )
    annotations: Annotated[list[Any], Field(fail_fast=True, max_length=MAX_PARTS)] | None = Field(
        default=None, description="No effect: where an answer found what it says."
    )
    refusal: Annotated[Literal[""] | None, NotSupported("refusals are not supported")] = None
    tool_calls: Annotated[Empty | None, NotSupported("tool calls are not supported")] = None
    function_call: Annotated[None, NotSupported("function calls are not supported")] = None
    audio: Annotated[None, NotSupported("audio is not supported")] = None
    images: Annotated[Empty | None, NotSupported("images are not supported")] = None
    parsed: Annotated[None, NotSupported("send the text as content")] = None
    reasoning: Annotated[Literal[""] | None, NotSupported("reasoning is not supported")] = None
    reasoning_content: Annotated[Literal[""] | None, NotSupported("reasoning is not supported")] = (
        None
    )
    reasoning_details: Annotated[Empty | None, NotSupported("reasoning is not supported")] = None
    thinking_blocks: Annotated[Empty | None, NotSupported("reasoning is not supported")] = None
    provider_specific_fields: Annotated[
        Annotated[dict[str, Any], Field(max_length=0)] | None,
        NotSupported("only the message itself is read"),
    ] = None

    def to_message(self) -> Message:
        content = self.content
        if not isinstance(content, str):
            content = "".join(part.text for part in content)
        # `developer` is OpenAI's newer word for the role that chat templates call `system`.
        role = "system" if self.role == "developer" else self.role
        return Message(role, content, self.name)


TemplateName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,63}$")]


def fits_a_template(told: dict[str, Any]) -> dict[str, Any]:
    """Refuse values that are longer than a template can need, or that a job cannot carry."""
    if len(orjson.dumps(fits_the_wire(told))) > MAX_TEMPLATE_BYTES:
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


Messages = Annotated[
    list[ChatMessage], Field(fail_fast=True, min_length=1, max_length=MAX_MESSAGES)
]
