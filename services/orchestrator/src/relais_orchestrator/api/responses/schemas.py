"""Request bodies and queries of the routes of responses: all of OpenAI's fields, some of vLLM's, and Relais's own two.

As on the other routes, unsupported fields are declared with the values at which they have no effect.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    AliasChoices,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    JsonValue,
    StringConstraints,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from relais_common.jobs.chat import ChatOptions
from relais_common.jobs.job import Priority
from relais_orchestrator.api.schemas.branches import CHOSEN, TAGGED, branch
from relais_orchestrator.api.schemas.deployed import Deadline, TextModelName
from relais_orchestrator.api.schemas.hints import CachedPart, Parsed
from relais_orchestrator.api.schemas.images import ImageAddress, ImageDetail, few_images
from relais_orchestrator.api.schemas.messages import (
    MAX_MESSAGES,
    MAX_PARTS,
    CallId,
    Empty,
    TemplateKwargs,
    fault,
)
from relais_orchestrator.api.schemas.nested_json import Arguments
from relais_orchestrator.api.schemas.nulls import OrNull
from relais_orchestrator.api.schemas.numbers import Whole
from relais_orchestrator.api.schemas.priorities import RequestPriority
from relais_orchestrator.api.schemas.sampling import (
    MAX_KEYWORDS,
    MAX_LOGPROBS,
    MAX_TOKENS,
    STRICT,
    JsonObjectFormat,
    SamplingParams,
    TextFormat,
)
from relais_orchestrator.api.schemas.structure_bounds import check_schema
from relais_orchestrator.api.schemas.tools import (
    MAX_TOOLS,
    MAX_TOOLS_BYTES,
    NEEDS_TOOLS,
    Function,
    ToolName,
)
from relais_orchestrator.api.schemas.unsupported import VALUE, NotSupported

LOGPROBS = "message.output_text.logprobs"
MAX_SEQUENCE = 10**12
Label = Annotated[str, StringConstraints(max_length=512)]
ResponseId = Annotated[str, StringConstraints(min_length=1, max_length=600)]


Item = dict[str, Any]
"""An item as it is kept: OpenAI's, with its text in one part if it has no images, and the client's id, if any."""

BY_NAME = ConfigDict(validate_by_name=True, validate_by_alias=True)
"""Takes `async_` and `schema_` too: so the official client's `model_dump()` names `async` and `schema`."""

Synchronous = Annotated[
    Literal[False] | None, Field(alias="async"), NotSupported("no call is asynchronous")
]
ItemId = Annotated[str, StringConstraints(min_length=1, max_length=512)]
ItemStatus = Literal["in_progress", "completed", "incomplete"]
_ANSWERED: JsonValue = {"enum": ["input_text", "output_text", "refusal"]}
_ASKED: JsonValue = {"enum": ["input_text", "output_text", "input_image"]}


class TextPart(CachedPart):
    """A text. `output_text` is for an assistant's."""

    type: Literal["input_text", "output_text"]
    text: str
    annotations: Annotated[list[Any], Field(fail_fast=True, max_length=MAX_PARTS)] | None = Field(
        default=None, description="No effect: where an answer found what it says."
    )
    logprobs: Annotated[list[Any], Field(fail_fast=True, max_length=65_536)] | None = Field(
        default=None, description="No effect."
    )
    parsed: Parsed = None


class ImagePart(CachedPart):
    """An image."""

    type: Literal["input_image"]
    file_id: Annotated[None, NotSupported("there are no files of images: send a data URL")] = None
    image_url: ImageAddress = Field(description="As in chats: a data URL, or an address.")
    detail: ImageDetail | None = Field(default=None, description="As in chats.")


class RefusalPart(BaseModel):
    """What an assistant said in place of an answer: a text as any other, for the model."""

    model_config = STRICT

    type: Literal["refusal"]
    text: Annotated[str, Field(alias="refusal")]
    parsed: Parsed = None


_Part = TextPart | ImagePart | RefusalPart
Content = (
    Annotated[str, branch("text")]
    | Annotated[
        list[Annotated[TextPart | ImagePart, Field(discriminator="type")]],
        Field(fail_fast=True, max_length=MAX_PARTS),
        branch(TAGGED),
    ]
)
MessageContent = (
    Annotated[str, branch("text")]
    | Annotated[
        list[Annotated[_Part, Field(discriminator="type")]],
        Field(fail_fast=True, max_length=MAX_PARTS),
        branch(TAGGED),
    ]
)


class InputMessage(BaseModel):
    """A message. An answer's may be sent back unchanged."""

    model_config = STRICT | ConfigDict(
        json_schema_extra={
            "anyOf": [
                {
                    "properties": {
                        "role": {"not": {"const": "assistant"}},
                        "content": {"items": {"properties": {"type": _ASKED}}},
                    }
                },
                {
                    "properties": {
                        "role": {"const": "assistant"},
                        "content": {"items": {"properties": {"type": _ANSWERED}}},
                    }
                },
            ]
        }
    )

    type: Literal["message"] | None = None
    role: Literal["user", "assistant", "system", "developer"]
    content: MessageContent
    id: ItemId | None = None
    status: ItemStatus | None = None
    phase: Literal["commentary", "final_answer"] | None = Field(
        default=None, description="No effect."
    )

    @model_validator(mode="after")
    def _parts_of_its_role(self) -> Self:
        wrong = ImagePart if self.role == "assistant" else RefusalPart
        parts = () if isinstance(self.content, str) else self.content
        for place, part in enumerate(parts):
            if isinstance(part, wrong):
                kind = PydanticCustomError(
                    "role", "not in messages of role {role}", {"role": self.role}
                )
                raise fault("content", kind, place, "type")
        return self

    def to_item(self) -> Item:
        if self.role == "assistant":
            part: Item = {"type": "output_text", "text": _text(self.content)}
            content = [part | {"annotations": [], "logprobs": []}]
        else:
            content = _parts(self.content)
        return {"type": "message", "role": self.role, "content": content}


class DirectCaller(BaseModel):
    model_config = STRICT

    type: Literal["direct"]


class _OfFunctions(BaseModel):
    model_config = STRICT

    id: ItemId | None = None
    status: ItemStatus | None = None
    namespace: Annotated[None, NotSupported("namespaces are not supported")] = None
    caller: Annotated[DirectCaller | None, NotSupported("calls by programs are not supported")] = (
        None
    )
    created_by: Label | None = Field(default=None, description="No effect.")


class InputCall(_OfFunctions):
    """A call that an earlier answer made."""

    model_config = STRICT | BY_NAME

    type: Literal["function_call"]
    call_id: CallId
    name: Annotated[str, StringConstraints(min_length=1, max_length=256)]
    arguments: Arguments
    parsed_arguments: Parsed = None
    async_: Synchronous = None

    def to_item(self) -> Item:
        return {
            "type": "function_call",
            "call_id": self.call_id,
            "name": self.name,
            "arguments": self.arguments,
        }


class InputCallOutput(_OfFunctions):
    """The result of a call."""

    type: Literal["function_call_output"]
    call_id: CallId
    output: Content
    name: Annotated[str, StringConstraints(max_length=256)] | None = Field(
        default=None, description="No effect."
    )

    def to_item(self) -> Item:
        return {
            "type": "function_call_output",
            "call_id": self.call_id,
            "output": _parts(self.output) if any(_images(self.output)) else _text(self.output),
        }


def _text(content: str | Sequence[_Part]) -> str:
    if isinstance(content, str):
        return content
    return "".join(part.text for part in content if not isinstance(part, ImagePart))


def _images(content: str | Sequence[_Part]) -> list[ImagePart | None]:
    """Return the images of a content, with None in place of each text."""
    parts = [] if isinstance(content, str) else content
    return [part if isinstance(part, ImagePart) else None for part in parts]


def _parts(content: str | Sequence[_Part]) -> list[Item]:
    """Return parts as they are kept."""
    if isinstance(content, str) or not any(_images(content)):
        return [{"type": "input_text", "text": _text(content)}]
    return [
        {
            "type": "input_image",
            "image_url": part.image_url,
            "detail": part.detail or "auto",
            "file_id": None,
        }
        if isinstance(part, ImagePart)
        else {"type": "input_text", "text": part.text}
        for part in content
    ]


class SummaryPart(BaseModel):
    model_config = STRICT

    type: Literal["summary_text"]
    text: str


class ReasoningPart(BaseModel):
    model_config = STRICT

    type: Literal["reasoning_text"]
    text: str


class InputReasoning(BaseModel):
    """What an earlier answer's model thought; its summary counts where there is no content."""

    model_config = STRICT

    type: Literal["reasoning"]
    id: ItemId | None = None
    summary: OrNull[Annotated[list[SummaryPart], Field(fail_fast=True, max_length=MAX_PARTS)]] = []
    content: Annotated[list[ReasoningPart], Field(fail_fast=True, max_length=MAX_PARTS)] | None = (
        None
    )
    encrypted_content: Annotated[
        Literal[""] | None, NotSupported("reasoning is not encrypted: send its content")
    ] = None
    status: ItemStatus | None = None

    def to_item(self) -> Item:
        return {
            "type": "reasoning",
            "summary": [one.model_dump() for one in self.summary],
            "content": [one.model_dump() for one in self.content or ()],
        }


def _few_images(items: list[InputItem]) -> list[InputItem]:
    contents = [
        one.content if isinstance(one, InputMessage) else one.output
        for one in items
        if isinstance(one, InputMessage | InputCallOutput)
    ]
    few_images(sum(part is not None for one in contents for part in _images(one)))
    return items


def _kind(item: Any) -> str:
    """Return the branch of an item. Without a type it is a message, or, if it has an id alone, a reference."""
    if not isinstance(item, dict):
        return f"|{getattr(item, 'type', None) or 'message'}"
    kind = item.get("type")
    if kind is None:
        kind = "item_reference" if item.keys() - {"type"} == {"id"} else "message"
    return f"|{kind}"


InputItem = Annotated[
    Annotated[InputMessage, branch("message")]
    | Annotated[InputCall, branch("function_call")]
    | Annotated[InputCallOutput, branch("function_call_output")]
    | Annotated[InputReasoning, branch("reasoning")],
    Discriminator(_kind),
]
Input = (
    Annotated[str, branch("text")]
    | Annotated[
        list[InputItem],
        Field(fail_fast=True, max_length=MAX_MESSAGES),
        AfterValidator(_few_images),
        branch("items"),
    ]
)


class _Typed(BaseModel):
    # Of a hosted tool, this field is the fault that is named: it comes before those of functions.
    model_config = STRICT

    type: Annotated[
        Literal["function"], NotSupported("only functions are supported as tools", names_value=True)
    ]


class FunctionTool(Function, _Typed):
    """A function that the answer may call."""

    model_config = STRICT | BY_NAME

    allowed_callers: Annotated[
        Annotated[list[Literal["direct"]], Field(fail_fast=True, max_length=1)] | None,
        NotSupported("only the model calls functions"),
    ] = None
    async_: Synchronous = None
    defer_loading: bool | None = Field(
        default=None, description="No effect: every tool is in the prompt."
    )
    output_schema: Annotated[None, NotSupported("outputs are not checked")] = None

    def to_tool(self) -> dict[str, Any]:
        """Return the tool as a job has it."""
        function = self.model_dump(include=set(Function.model_fields), exclude_none=True)
        return {"type": "function", "function": function}

    def shown(self) -> dict[str, Any]:
        """Return the tool as a response repeats it."""
        return {
            "type": "function",
            "name": self.name,
            "description": self.description,
            "parameters": self.parameters,
            "strict": self.strict,
        }


def _fit_a_prompt(tools: list[FunctionTool]) -> list[FunctionTool]:
    if sum(len(tool.model_dump_json().encode()) for tool in tools) > MAX_TOOLS_BYTES:
        raise PydanticCustomError("too_long", "at most {most} bytes", {"most": MAX_TOOLS_BYTES})
    return tools


class ChosenFunction(BaseModel):
    """The only function that may, and must, be called."""

    model_config = STRICT

    type: Literal["function"]
    name: ToolName


class AllowedFunctions(BaseModel):
    """The only functions that may be called: the others are left out of the prompt."""

    model_config = STRICT

    type: Literal["allowed_tools"]
    mode: Literal["auto", "required"]
    tools: Annotated[
        list[ChosenFunction], Field(fail_fast=True, min_length=1, max_length=MAX_TOOLS)
    ]


class JsonSchemaFormat(BaseModel):
    model_config = STRICT | BY_NAME

    type: Literal["json_schema"]
    name: Annotated[str, StringConstraints(min_length=1, max_length=64)]
    schema_: Annotated[dict[str, Any], Field(max_length=MAX_KEYWORDS)] = Field(alias="schema")
    description: str | None = None
    strict: bool | None = None

    _bounded = field_validator("schema_")(check_schema)


class TextOptions(BaseModel):
    model_config = STRICT

    format: (
        Annotated[TextFormat | JsonObjectFormat | JsonSchemaFormat, Field(discriminator="type")]
        | None
    ) = Field(default=None, description="Text by default.")
    verbosity: Literal["low", "medium", "high"] | None = Field(
        default=None, description="No effect: models here do not know it; say it in the prompt."
    )

    def to_response_format(self) -> dict[str, Any] | None:
        """Return the format as a job has it."""
        if self.format is None or isinstance(self.format, TextFormat):
            return None
        given = self.format.model_dump(by_alias=True, exclude_none=True)
        if isinstance(self.format, JsonObjectFormat):
            return given
        kind = given.pop("type")
        return {"type": kind, kind: given}


Summary = Annotated[
    Literal["auto", "concise", "detailed"] | None,
    Field(description="No effect: reasoning items have the reasoning itself."),
]


class ReasoningOptions(BaseModel):
    model_config = STRICT

    effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = Field(
        default=None, description="As `reasoning_effort` of chats."
    )
    summary: Summary = None
    generate_summary: Summary = None
    context: Annotated[
        Literal["auto"] | None, NotSupported("the chat template chooses what it shows")
    ] = None
    mode: Annotated[Literal["standard"] | None, NotSupported("there is one mode")] = None


class StreamOptions(BaseModel):
    model_config = STRICT

    include_obfuscation: Annotated[Literal[False] | None, NotSupported("events are not padded")] = (
        None
    )


_NO_ITEMS = PydanticCustomError("too_short", "no items; only with previous_response_id")
_NEEDS_INPUT: dict[str, JsonValue] = {
    "anyOf": [
        {
            "required": ["input"],
            "properties": {
                "input": {"anyOf": [{"type": "string"}, {"minItems": 1, "type": "array"}]}
            },
        },
        {
            "required": ["previous_response_id"],
            "properties": {"previous_response_id": {"type": "string"}},
        },
    ]
}


class _Asking(TemplateKwargs):
    """What a response, or the count of its tokens, is asked with."""

    model_config = STRICT | ConfigDict(json_schema_extra={"allOf": [NEEDS_TOOLS, _NEEDS_INPUT]})

    model: TextModelName
    input: Input | None = Field(
        default=None, description="Only with `previous_response_id` there may be none."
    )
    instructions: str | None = Field(
        default=None, description="A system message before all others, of this response alone."
    )
    previous_response_id: ResponseId | None = Field(
        default=None, description="The response that this one goes on from."
    )
    tools: (
        Annotated[
            list[FunctionTool],
            Field(fail_fast=True, max_length=MAX_TOOLS),
            AfterValidator(_fit_a_prompt),
        ]
        | None
    ) = Field(default=None, description="Functions that the answer may call.")
    tool_choice: (
        Annotated[Literal["none", "auto", "required"], branch("mode")]
        | Annotated[ChosenFunction | AllowedFunctions, Field(discriminator="type"), branch(CHOSEN)]
        | None
    ) = Field(default=None, description="`auto` where there are tools.")
    parallel_tool_calls: bool | None = Field(
        default=None, description="Whether the answer may have several calls; it may, by default."
    )
    reasoning: ReasoningOptions | None = None
    text: TextOptions | None = None
    truncation: Annotated[
        Literal["disabled"] | None,
        NotSupported("a prompt that is too long is refused, not cut"),
    ] = None
    conversation: Annotated[
        None, NotSupported("conversations are not supported; see previous_response_id")
    ] = None

    @model_validator(mode="after")
    def _asks_something(self) -> Self:
        if self.previous_response_id is None and self.input in (None, []):
            raise fault("input", "missing" if self.input is None else _NO_ITEMS)
        return self

    @field_validator("tool_choice")
    @classmethod
    def _chooses_a_tool(
        cls, choice: str | ChosenFunction | AllowedFunctions | None, info: ValidationInfo
    ) -> str | ChosenFunction | AllowedFunctions | None:
        if "tools" not in info.data or choice in (None, "none", "auto"):
            return choice
        names = {tool.name for tool in info.data["tools"] or ()}
        if not names:
            raise PydanticCustomError("no_tools", "only for requests with tools")
        chosen = choice.tools if isinstance(choice, AllowedFunctions) else [choice]
        if any(isinstance(one, ChosenFunction) and one.name not in names for one in chosen):
            raise PydanticCustomError("unknown_tool", "no tool has this name")
        return choice

    def to_options(self) -> ChatOptions:
        """Convert to the job's type."""
        effort = None if self.reasoning is None else self.reasoning.effort
        if not self.tools:
            return ChatOptions(reasoning_effort=effort, as_streamed=True)
        tools, given = self.tools, self.tool_choice or "auto"
        choice: str | dict[str, Any]
        if isinstance(given, AllowedFunctions):
            allowed = {one.name for one in given.tools}
            tools = [tool for tool in tools if tool.name in allowed]
            choice = given.mode
        elif isinstance(given, ChosenFunction):
            choice = {"type": "function", "function": {"name": given.name}}
        else:
            choice = given
        return ChatOptions(
            tools=tuple(tool.to_tool() for tool in tools),
            tool_choice=choice,
            parallel_tool_calls=self.parallel_tool_calls is not False,
            reasoning_effort=effort,
            as_streamed=True,
        )


_TOP_NEEDS_LOGPROBS: dict[str, JsonValue] = {
    "anyOf": [
        {"properties": {"top_logprobs": {"enum": [None, 0]}}},
        {
            "required": ["include"],
            "properties": {"include": {"type": "array", "contains": {"const": LOGPROBS}}},
        },
    ]
}
_OPTIONS_NEED_STREAM: dict[str, JsonValue] = {
    "anyOf": [
        {"properties": {"stream_options": {"type": "null"}}},
        {"required": ["stream"], "properties": {"stream": {"const": True}}},
    ]
}


Included = Annotated[
    Literal["message.output_text.logprobs", "reasoning.encrypted_content"],
    NotSupported(
        "only message.output_text.logprobs is there to be included, and reasoning.encrypted_content has no effect",
        names_value=True,
    ),
]


class ResponsesRequest(_Asking, SamplingParams):
    """`POST /v1/responses`."""

    model_config = STRICT | ConfigDict(
        json_schema_extra={
            "allOf": [NEEDS_TOOLS, _NEEDS_INPUT, _TOP_NEEDS_LOGPROBS, _OPTIONS_NEED_STREAM]
        }
    )

    max_output_tokens: Annotated[int, Whole(1, MAX_TOKENS)] | None = Field(
        default=None, description="The most tokens of the answer, reasoning included."
    )
    stream: bool | None = Field(default=None, description="Server-sent events, or one object.")
    stream_options: StreamOptions | None = Field(
        default=None, description="Only with `stream: true`."
    )
    background: bool | None = Field(
        default=None,
        description="Answer at once, with a response that is queued; nobody needs to wait for it.",
    )
    store: bool | None = Field(
        default=None,
        description="Keep it in the database for `RESPONSES_TTL_DAYS`; else it is gone `RESULT_TTL_S` after its end. "
        "`RESPONSES_STORE` is the default.",
    )
    include: (
        Annotated[
            list[Included],
            Field(fail_fast=True, max_length=8),
        ]
        | None
    ) = Field(
        default=None,
        description="`message.output_text.logprobs`. `reasoning.encrypted_content` has no effect: reasoning is told "
        "in the clear.",
    )
    top_logprobs: Annotated[int, Whole(0, MAX_LOGPROBS)] | None = Field(
        default=None,
        description="Log probabilities of so many of the likeliest tokens in each place; only with "
        '`include: ["message.output_text.logprobs"]`.',
    )
    max_tool_calls: Annotated[int, Whole(1, MAX_TOKENS)] | None = Field(
        default=None, description="No effect: it bounds calls of hosted tools."
    )
    priority: RequestPriority = Field(
        default=Priority.NORMAL, description="High goes before normal before low, with ageing."
    )
    deadline_s: Deadline | None = Field(
        default=None, description="Seconds after which the request expires."
    )

    # Labels and hints, which have no effect on the answer at OpenAI either.
    metadata: (
        Annotated[
            dict[Annotated[str, StringConstraints(max_length=64)], Label], Field(max_length=16)
        ]
        | None
    ) = Field(default=None, description="Kept with the response.")
    user: Label | None = Field(default=None, description="No effect.")
    safety_identifier: Label | None = Field(default=None, description="No effect.")
    prompt_cache_key: Label | None = Field(
        default=None, description="No effect: every prompt's prefix may be cached."
    )
    client_metadata: (
        Annotated[dict[Annotated[str, StringConstraints(max_length=64)], Any], Field(max_length=64)]
        | None
    ) = Field(default=None, description="No effect: what coding agents say of themselves.")
    service_tier: (
        Literal["auto", "default", "flex", "scale", "priority", "fast", "ultrafast"] | None
    ) = Field(default=None, description="No effect: there is one tier; see `priority`.")

    # Not supported, except at values without effect.
    max_tokens: Annotated[None, NotSupported("see max_output_tokens")] = None
    n: Annotated[Literal[1] | None, NotSupported("a response is one answer")] = None
    return_tokens_as_token_ids: Annotated[
        Literal[False] | None, NotSupported("tokens are told as text")
    ] = None
    response_format: Annotated[None, NotSupported("see text.format")] = None
    prompt: Annotated[None, NotSupported("stored prompts are not supported")] = None
    prompt_cache_options: Annotated[None, NotSupported("caching cannot be set")] = None
    prompt_cache_retention: Annotated[
        Literal["in_memory"] | None, NotSupported("prompts are cached in memory only")
    ] = None
    context_management: Annotated[Empty | None, NotSupported("conversations are not compacted")] = (
        None
    )
    moderation: Annotated[None, NotSupported("moderation is not supported")] = None
    image: Annotated[None, NotSupported("images are not made; send them as input")] = None
    access_programs: Annotated[None, NotSupported("there are no access programs")] = None
    background_options: Annotated[
        None, NotSupported("see priority and deadline_s, or send a batch")
    ] = None

    @field_validator("text")
    @classmethod
    def _no_other_constraint(
        cls, text: TextOptions | None, info: ValidationInfo
    ) -> TextOptions | None:
        constrains = text is not None and text.to_response_format() is not None
        if constrains and info.data.get("structured_outputs") is not None:
            raise PydanticCustomError("text", "only for requests without structured_outputs")
        return text

    @field_validator("stream_options")
    @classmethod
    def _options_need_stream(
        cls, options: StreamOptions | None, info: ValidationInfo
    ) -> StreamOptions | None:
        if options is not None and info.data.get("stream") is not True:
            raise PydanticCustomError("stream_options", "only for requests with stream: true")
        return options

    @field_validator("top_logprobs")
    @classmethod
    def _top_needs_logprobs(cls, top: int | None, info: ValidationInfo) -> int | None:
        if top and LOGPROBS not in (info.data.get("include") or ()):
            raise PydanticCustomError(
                "top_logprobs", "only for requests that include {what}", {"what": LOGPROBS}
            )
        return top

    @property
    def told_logprobs(self) -> int | None:
        """Return the value for `Sampling.logprobs`."""
        return (self.top_logprobs or 0) if LOGPROBS in (self.include or ()) else None


class InputTokensRequest(_Asking):
    """`POST /v1/responses/input_tokens`."""

    personality: Annotated[None, NotSupported("there are no personalities")] = None


_INCLUDED = TypeAdapter(list[Included])


INCLUDE = ("include", "include[]")
"""The names of the parameter that queries may have several times."""


def _can_be_included(names: str) -> str:
    try:
        _INCLUDED.validate_python(names.split(","))
    except ValidationError as error:
        # Without the place, which is none of the query's.
        why = error.errors(include_url=False, include_input=False)[0]["msg"]
        raise PydanticCustomError(VALUE, "{why}", {"why": why}) from None
    return names


IncludeQuery = Annotated[
    Annotated[str, AfterValidator(_can_be_included)] | None,
    Field(
        validation_alias=AliasChoices(*INCLUDE),
        description="No effect: what there is, is included.",
        json_schema_extra={"enum": ["message.output_text.logprobs", "reasoning.encrypted_content"]},
    ),
]


class ResponseQuery(BaseModel):
    """The query string of `GET /v1/responses/{response_id}`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    stream: bool = Field(
        default=False, description="Its events, from the first on; to their end if it runs."
    )
    starting_after: Annotated[int, Field(ge=0, le=MAX_SEQUENCE)] | None = Field(
        default=None, description="Only events after the one with this `sequence_number`."
    )
    include: IncludeQuery = None
    include_obfuscation: Literal[False] | None = None


class ItemsQuery(BaseModel):
    """The query string of `GET /v1/responses/{response_id}/input_items`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    after: Annotated[str, StringConstraints(max_length=600)] | None = Field(
        default=None, description="The id of the last item of the page before."
    )
    limit: Annotated[int, Field(ge=1, le=100)] = 20
    include: IncludeQuery = None
    order: Literal["asc", "desc"] = Field(default="desc", description="`desc`: the last first.")
