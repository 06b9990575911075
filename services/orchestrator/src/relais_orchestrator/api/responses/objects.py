"""What the routes of responses return: OpenAI's objects, items and events."""

from __future__ import annotations

from typing import Annotated, Any, Literal, NotRequired

from pydantic import Field, with_config
from typing_extensions import TypedDict

from relais_common.jobs.events import Timings
from relais_orchestrator.api.schemas.closed import CLOSED

ItemStatus = Literal["in_progress", "completed", "incomplete"]
ResponseStatus = Literal["queued", "in_progress", "completed", "incomplete", "failed", "cancelled"]


@with_config(CLOSED)
class TopLogprob(TypedDict):
    token: str
    logprob: float
    bytes: NotRequired[list[int]]


@with_config(CLOSED)
class Logprob(TypedDict):
    """A token of the text. `bytes` is left out of deltas."""

    token: str
    logprob: float
    bytes: NotRequired[list[int]]
    top_logprobs: list[TopLogprob]


@with_config(CLOSED)
class OutputText(TypedDict):
    type: Literal["output_text"]
    text: str
    annotations: Annotated[list[Any], Field(max_length=0)]
    logprobs: Annotated[
        list[Logprob],
        Field(
            description='With `include: ["message.output_text.logprobs"]`; not of responses fetched later.'
        ),
    ]


@with_config(CLOSED)
class InputText(TypedDict):
    type: Literal["input_text"]
    text: str


@with_config(CLOSED)
class InputImage(TypedDict):
    type: Literal["input_image"]
    image_url: str
    detail: Literal["auto", "low", "high", "original"]
    file_id: None


@with_config(CLOSED)
class ReasoningText(TypedDict):
    type: Literal["reasoning_text"]
    text: str


@with_config(CLOSED)
class SummaryText(TypedDict):
    type: Literal["summary_text"]
    text: str


@with_config(CLOSED)
class MessageItem(TypedDict):
    id: str
    type: Literal["message"]
    status: ItemStatus
    role: Literal["assistant"]
    content: list[OutputText]


@with_config(CLOSED)
class ReasoningItem(TypedDict):
    """What the model thought. `content` has all of it: there are no summaries, and nothing is encrypted."""

    id: str
    type: Literal["reasoning"]
    summary: list[SummaryText]
    content: list[ReasoningText]
    encrypted_content: None
    status: ItemStatus


@with_config(CLOSED)
class FunctionCallItem(TypedDict):
    id: str
    type: Literal["function_call"]
    status: ItemStatus
    call_id: str
    name: str
    arguments: Annotated[str, Field(description="JSON as the model wrote it: check it.")]


OutputItem = MessageItem | ReasoningItem | FunctionCallItem


@with_config(CLOSED)
class InputMessageItem(TypedDict):
    id: str
    type: Literal["message"]
    status: ItemStatus
    role: Literal["user", "system", "developer"]
    content: list[InputText | InputImage]


@with_config(CLOSED)
class FunctionCallOutputItem(TypedDict):
    id: str
    type: Literal["function_call_output"]
    status: ItemStatus
    call_id: str
    output: str | list[InputText | InputImage]


InputItem = InputMessageItem | FunctionCallOutputItem | OutputItem


@with_config(CLOSED)
class ItemList(TypedDict):
    """A page of the items that were asked with. Those of the responses before it are not among them."""

    object: Literal["list"]
    data: list[InputItem]
    first_id: str | None
    last_id: str | None
    has_more: bool


@with_config(CLOSED)
class InputTokensDetails(TypedDict):
    cached_tokens: int
    cache_write_tokens: int


@with_config(CLOSED)
class OutputTokensDetails(TypedDict):
    reasoning_tokens: int


@with_config(CLOSED)
class ResponseUsage(TypedDict):
    input_tokens: int
    input_tokens_details: InputTokensDetails
    output_tokens: int
    output_tokens_details: OutputTokensDetails
    total_tokens: int


@with_config(CLOSED)
class ResponseError(TypedDict):
    """Why there is no answer. `code` is one of OpenAI's; `type` is the code that other routes would give."""

    code: Literal["server_error", "rate_limit_exceeded", "invalid_prompt"]
    message: str
    param: str | None
    type: str | None


@with_config(CLOSED)
class IncompleteDetails(TypedDict):
    reason: Literal["max_output_tokens", "content_filter"]


@with_config(CLOSED)
class ReasoningConfig(TypedDict):
    effort: str | None
    summary: None


@with_config(CLOSED)
class TextConfig(TypedDict):
    format: Annotated[dict[str, Any], Field(description="As it was asked for.")]


@with_config(CLOSED)
class ResponseObject(TypedDict):
    """A response: where it stands, its answer, and how it was asked."""

    id: str
    object: Literal["response"]
    created_at: Annotated[int, Field(description="Seconds since the epoch.")]
    status: ResponseStatus
    background: bool
    completed_at: int | None
    error: ResponseError | None
    incomplete_details: IncompleteDetails | None
    instructions: str | None
    max_output_tokens: int | None
    max_tool_calls: int | None
    metadata: dict[str, str]
    model: str
    output: list[OutputItem]
    parallel_tool_calls: bool
    previous_response_id: str | None
    prompt_cache_key: str | None
    reasoning: ReasoningConfig
    safety_identifier: str | None
    service_tier: Literal["default"]
    store: Annotated[bool, Field(description="Whether it is kept in the database.")]
    temperature: float | None
    text: TextConfig
    timings: NotRequired[Timings]
    tool_choice: str | dict[str, Any]
    tools: list[dict[str, Any]]
    top_logprobs: int
    top_p: float | None
    truncation: Literal["disabled"]
    usage: ResponseUsage | None
    user: str | None


@with_config(CLOSED)
class DeletedResponse(TypedDict):
    id: str
    object: Literal["response"]
    deleted: Literal[True]


@with_config(CLOSED)
class InputTokens(TypedDict):
    object: Literal["response.input_tokens"]
    input_tokens: int


class _Event(TypedDict):
    sequence_number: Annotated[int, Field(description="0, 1, 2, ... without a gap.")]


@with_config(CLOSED)
class ResponseEvent(_Event):
    """The response as a whole, at its beginning and at its end."""

    type: Literal[
        "response.created",
        "response.queued",
        "response.in_progress",
        "response.completed",
        "response.incomplete",
        "response.failed",
    ]
    response: ResponseObject


@with_config(CLOSED)
class ItemEvent(_Event):
    type: Literal["response.output_item.added", "response.output_item.done"]
    output_index: int
    item: OutputItem


class _OfItem(_Event):
    item_id: str
    output_index: int


@with_config(CLOSED)
class PartEvent(_OfItem):
    type: Literal["response.content_part.added", "response.content_part.done"]
    content_index: int
    part: OutputText | ReasoningText


@with_config(CLOSED)
class TextDelta(_OfItem):
    type: Literal["response.output_text.delta"]
    content_index: int
    delta: str
    logprobs: list[Logprob]


@with_config(CLOSED)
class TextDone(_OfItem):
    type: Literal["response.output_text.done"]
    content_index: int
    text: str
    logprobs: list[Logprob]


@with_config(CLOSED)
class ReasoningDelta(_OfItem):
    type: Literal["response.reasoning_text.delta"]
    content_index: int
    delta: str


@with_config(CLOSED)
class ReasoningDone(_OfItem):
    type: Literal["response.reasoning_text.done"]
    content_index: int
    text: str


@with_config(CLOSED)
class ArgumentsDelta(_OfItem):
    type: Literal["response.function_call_arguments.delta"]
    delta: str


@with_config(CLOSED)
class ArgumentsDone(_OfItem):
    type: Literal["response.function_call_arguments.done"]
    name: str
    arguments: str


@with_config(CLOSED)
class ErrorEvent(_Event):
    """Why the stream ends before the response does; its number is that of the event before it."""

    type: Literal["error"]
    code: str | None
    message: str
    param: str | None


EVENTS: tuple[tuple[str, Any], ...] = (
    *(
        (f"response.{name}", ResponseEvent)
        for name in ("created", "queued", "in_progress", "completed", "incomplete", "failed")
    ),
    ("response.output_item.added", ItemEvent),
    ("response.output_item.done", ItemEvent),
    ("response.content_part.added", PartEvent),
    ("response.content_part.done", PartEvent),
    ("response.output_text.delta", TextDelta),
    ("response.output_text.done", TextDone),
    ("response.reasoning_text.delta", ReasoningDelta),
    ("response.reasoning_text.done", ReasoningDone),
    ("response.function_call_arguments.delta", ArgumentsDelta),
    ("response.function_call_arguments.done", ArgumentsDone),
    ("error", ErrorEvent),
)
