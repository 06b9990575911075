"""Responses of `/v1/messages`, and the events of its streams: Anthropic's objects."""

from __future__ import annotations

from typing import Annotated, Any, Literal, NotRequired

from pydantic import Field, with_config
from typing_extensions import TypedDict

from relais_orchestrator.api.schemas.closed import CLOSED


@with_config(CLOSED)
class ThinkingTokens(TypedDict):
    thinking_tokens: int


@with_config(CLOSED)
class UsageObject(TypedDict):
    """Input tokens are those that were not in the cache; 0 where a server does not count them."""

    input_tokens: int
    cache_creation_input_tokens: int
    cache_read_input_tokens: int
    output_tokens: int
    output_tokens_details: NotRequired[
        Annotated[ThinkingTokens, Field(description="Of models whose reasoning is told apart.")]
    ]


@with_config(CLOSED)
class TextContent(TypedDict):
    type: Literal["text"]
    text: str
    citations: None


@with_config(CLOSED)
class ThinkingContent(TypedDict):
    type: Literal["thinking"]
    thinking: str
    signature: Annotated[str, Field(description="The request's channel; not checked.")]


@with_config(CLOSED)
class ToolUseContent(TypedDict):
    type: Literal["tool_use"]
    id: str
    name: str
    input: dict[str, Any]


Content = TextContent | ThinkingContent | ToolUseContent
StopReason = Literal["end_turn", "max_tokens", "stop_sequence", "tool_use"]


@with_config(CLOSED)
class MessageObject(TypedDict):
    """The answer. In `message_start` it is empty."""

    id: str
    type: Literal["message"]
    role: Literal["assistant"]
    model: str
    content: list[Content]
    stop_reason: StopReason | None
    stop_sequence: str | None
    usage: UsageObject


@with_config(CLOSED)
class MessageStart(TypedDict):
    type: Literal["message_start"]
    message: MessageObject


@with_config(CLOSED)
class BlockStart(TypedDict):
    type: Literal["content_block_start"]
    index: int
    content_block: Content


@with_config(CLOSED)
class TextDelta(TypedDict):
    type: Literal["text_delta"]
    text: str


@with_config(CLOSED)
class ThinkingDelta(TypedDict):
    type: Literal["thinking_delta"]
    thinking: str


@with_config(CLOSED)
class SignatureDelta(TypedDict):
    type: Literal["signature_delta"]
    signature: str


@with_config(CLOSED)
class InputDelta(TypedDict):
    type: Literal["input_json_delta"]
    partial_json: str


@with_config(CLOSED)
class BlockDelta(TypedDict):
    type: Literal["content_block_delta"]
    index: int
    delta: TextDelta | ThinkingDelta | SignatureDelta | InputDelta


@with_config(CLOSED)
class BlockStop(TypedDict):
    type: Literal["content_block_stop"]
    index: int


@with_config(CLOSED)
class Stopped(TypedDict):
    stop_reason: StopReason
    stop_sequence: str | None


@with_config(CLOSED)
class MessageDelta(TypedDict):
    type: Literal["message_delta"]
    delta: Stopped
    usage: UsageObject


@with_config(CLOSED)
class MessageStop(TypedDict):
    type: Literal["message_stop"]


@with_config(CLOSED)
class Ping(TypedDict):
    type: Literal["ping"]


StreamEvent = MessageStart | BlockStart | BlockDelta | BlockStop | MessageDelta | MessageStop | Ping


@with_config(CLOSED)
class TokenCount(TypedDict):
    input_tokens: int


@with_config(CLOSED)
class ErrorDetails(TypedDict):
    error_code: Annotated[str | None, Field(description="A stable word for programs.")]
    param: Annotated[
        str | None, Field(description="The field, header or parameter at fault, as a dotted path.")
    ]


@with_config(CLOSED)
class ErrorObject(TypedDict):
    type: Annotated[str, Field(description="The error's family, as at Anthropic.")]
    message: Annotated[str, Field(description="One sentence for a person.")]
    details: ErrorDetails


@with_config(CLOSED)
class ErrorEnvelope(TypedDict):
    """An error."""

    type: Literal["error"]
    error: ErrorObject
    request_id: str


@with_config(CLOSED)
class ModelInfo(TypedDict):
    """A model that requests can name."""

    type: Literal["model"]
    id: str
    display_name: str
    created_at: Annotated[str, Field(description="When this server started.")]
    lifecycle: Literal["active"]
    max_input_tokens: Annotated[
        int | None,
        Field(description="Prompt and answer together; null while no worker tells."),
    ]
    max_tokens: int | None


@with_config(CLOSED)
class ModelPage(TypedDict):
    data: list[ModelInfo]
    has_more: bool
    first_id: str | None
    last_id: str | None


EVENTS: tuple[tuple[str, Any], ...] = (
    ("message_start", MessageStart),
    ("ping", Ping),
    ("content_block_start", BlockStart),
    ("content_block_delta", BlockDelta),
    ("content_block_stop", BlockStop),
    ("message_delta", MessageDelta),
    ("message_stop", MessageStop),
    ("error", ErrorEnvelope),
)
"""Names of a stream's events, and the types of their data."""
