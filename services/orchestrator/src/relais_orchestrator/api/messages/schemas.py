"""Request bodies of `/v1/messages`: all of Anthropic's fields, and Relais's own three.

As on the OpenAI routes, fields without support are declared with the values at which they have no effect.
docs/compatibility.md has the table.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    StringConstraints,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from relais_common.jobs.chat import ChatOptions, Message
from relais_common.jobs.job import OnDisconnect, Priority, Sampling
from relais_orchestrator.api.messages.blocks import (
    InputMessage,
    System,
    check_calls,
    few_images_in,
    image_fields,
    to_messages,
)
from relais_orchestrator.api.schemas.deployed import Deadline, TextModelName
from relais_orchestrator.api.schemas.hints import Hint
from relais_orchestrator.api.schemas.messages import MAX_MESSAGES, Empty
from relais_orchestrator.api.schemas.nulls import OrNull
from relais_orchestrator.api.schemas.numbers import Whole
from relais_orchestrator.api.schemas.priorities import RequestPriority
from relais_orchestrator.api.schemas.sampling import (
    MAX_KEYWORDS,
    MAX_TOKENS,
    STRICT,
    StopString,
)
from relais_orchestrator.api.schemas.structure_bounds import check_parameters, check_schema
from relais_orchestrator.api.schemas.tools import MAX_TOOLS, ToolName, fit_a_prompt
from relais_orchestrator.api.schemas.unsupported import NotSupported

_Schema = Annotated[dict[str, Any], Field(max_length=MAX_KEYWORDS)]


class Tool(BaseModel):
    """A tool that the client runs."""

    model_config = STRICT

    # Before the others: tools of other types lack what this one requires.
    type: Annotated[
        Literal["custom"] | None,
        NotSupported("only the client's own tools are supported: custom", names_value=True),
    ] = None
    name: ToolName
    description: str | None = None
    input_schema: _Schema = Field(description="A JSON schema of the input, which is an object.")
    strict: bool | None = Field(default=None, description="As in OpenAI's functions.")
    cache_control: Hint = Field(default=None, description="No effect.")
    defer_loading: bool | None = Field(
        default=None, description="No effect: every tool is in the prompt."
    )
    eager_input_streaming: bool | None = Field(
        default=None, description="No effect: input is streamed as it comes."
    )
    input_examples: Annotated[list[Any], Field(fail_fast=True, max_length=64)] | None = Field(
        default=None, description="No effect: describe them."
    )
    allowed_callers: (
        Annotated[
            Annotated[list[Literal["direct"]], Field(fail_fast=True, max_length=1)],
            NotSupported("only the model itself calls tools"),
        ]
        | None
    ) = None

    _bounded = field_validator("input_schema")(check_schema)
    _objects = field_validator("input_schema")(check_parameters)

    def plain(self) -> dict[str, Any]:
        """Return the tool as a job has it."""
        told = self.model_dump(include={"name", "description", "strict"}, exclude_none=True)
        parameters = {"type": "object", **self.input_schema}
        return {"type": "function", "function": {**told, "parameters": parameters}}


class ToolChoice(BaseModel):
    model_config = STRICT

    type: Literal["auto", "any", "tool", "none"]
    name: ToolName | None = Field(
        default=None, validate_default=True, description="Of the tool, with type `tool`."
    )
    disable_parallel_tool_use: bool | None = None

    @field_validator("name")
    @classmethod
    def _goes_with_tool(cls, name: str | None, info: ValidationInfo) -> str | None:
        if "type" in info.data and (info.data["type"] == "tool") != (name is not None):
            if name is None:
                raise PydanticCustomError("missing", "with type tool")
            raise PydanticCustomError("tool_choice", "only with type tool")
        return name


class Thinking(BaseModel):
    model_config = STRICT

    type: Literal["enabled", "disabled", "adaptive", "between_tools"]
    budget_tokens: Annotated[int, Whole(1, MAX_TOKENS)] | None = Field(
        default=None, validate_default=True, description="The most tokens of it, with `enabled`."
    )
    display: Literal["summarized", "omitted", "updates"] | None = Field(
        default=None, description="No effect: reasoning is always told."
    )

    @field_validator("budget_tokens")
    @classmethod
    def _goes_with_enabled(cls, budget: int | None, info: ValidationInfo) -> int | None:
        if "type" in info.data and (info.data["type"] == "enabled") != (budget is not None):
            if budget is None:
                raise PydanticCustomError("missing", "with type enabled")
            raise PydanticCustomError("thinking", "only with type enabled")
        return budget

    @property
    def is_wanted(self) -> bool | None:
        """Whether the model shall think; None where it may choose."""
        return {"enabled": True, "disabled": False}.get(self.type)


class OutputFormat(BaseModel):
    """The answer is JSON of this schema."""

    model_config = STRICT

    type: Literal["json_schema"]
    schema_: _Schema = Field(alias="schema")

    _bounded = field_validator("schema_")(check_schema)


class OutputConfig(BaseModel):
    model_config = STRICT

    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = Field(
        default=None, description="OpenAI's `reasoning_effort`."
    )
    format: OutputFormat | None = None
    task_budget: Annotated[None, NotSupported("budgets of tasks are not supported")] = None


class Metadata(BaseModel):
    model_config = STRICT

    user_id: Annotated[str, StringConstraints(max_length=1024)] | None = None


_CHOICE_NEEDS_TOOLS: dict[str, JsonValue] = {
    "anyOf": [
        {
            "properties": {
                "tool_choice": {
                    "anyOf": [
                        {"type": "null"},
                        {"properties": {"type": {"enum": ["auto", "none"]}}},
                    ]
                }
            }
        },
        {"required": ["tools"], "properties": {"tools": {"type": "array", "minItems": 1}}},
    ]
}


class _Conversation(BaseModel):
    """What makes a prompt."""

    model_config = STRICT | ConfigDict(json_schema_extra={"allOf": [_CHOICE_NEEDS_TOOLS]})

    model: TextModelName
    messages: Annotated[
        list[InputMessage],
        Field(fail_fast=True, min_length=1, max_length=MAX_MESSAGES),
        AfterValidator(few_images_in),
    ]
    system: System = None
    tools: (
        Annotated[
            list[Tool], Field(fail_fast=True, max_length=MAX_TOOLS), AfterValidator(fit_a_prompt)
        ]
        | None
    ) = None
    tool_choice: ToolChoice | None = Field(
        default=None, description="`auto` where there are tools."
    )
    thinking: Thinking | None = Field(
        default=None,
        description="`enabled` and `disabled` are told to the model's chat template as `enable_thinking`.",
    )
    output_config: OutputConfig | None = None
    output_format: OutputFormat | None = Field(
        default=None, description="The older name of `output_config.format`."
    )

    # Hints, which change no answer.
    cache_control: Hint = Field(default=None, description="No effect.")
    context_management: Hint = Field(
        default=None, description="No effect: the conversation is read as it is sent."
    )
    speed: Annotated[Literal["standard"] | None, NotSupported("there is one speed")] = None

    # Not supported, except at values without effect.
    mcp_servers: Annotated[Empty | None, NotSupported("MCP servers are not asked from here")] = None
    compaction: Annotated[None, NotSupported("the client compacts conversations")] = None
    billing_policy: Annotated[None, NotSupported("nothing is billed")] = None

    @field_validator("messages")
    @classmethod
    def _asks_for_an_answer(cls, turns: list[InputMessage]) -> list[InputMessage]:
        if turns[-1].role == "assistant":
            raise PydanticCustomError(
                "prefill",
                "prefilling assistant messages is not supported: the conversation must end with a user message",
            )
        return turns

    @field_validator("tool_choice")
    @classmethod
    def _chooses_a_tool(cls, choice: ToolChoice | None, info: ValidationInfo) -> ToolChoice | None:
        if "tools" not in info.data or choice is None or choice.type in ("auto", "none"):
            return choice
        names = {tool.name for tool in info.data["tools"] or ()}
        if not names:
            raise PydanticCustomError("no_tools", "only for requests with tools")
        if choice.name is not None and choice.name not in names:
            raise PydanticCustomError("unknown_tool", "no tool has this name")
        return choice

    @model_validator(mode="after")
    def _results_follow_their_calls(self) -> Self:
        check_calls(self.messages)
        return self

    def to_messages(self) -> tuple[Message, ...]:
        return to_messages(self.system, self.messages)

    def image_fields(self) -> tuple[str, ...]:
        """Return the paths of the images, in the order in which the job has them."""
        return tuple(image_fields(self.messages))

    def to_options(self) -> ChatOptions:
        """Convert to the job's type."""
        effort = None if self.output_config is None else self.output_config.effort
        choice = self.tool_choice or ToolChoice(type="auto")
        named = {"type": "function", "function": {"name": choice.name}}
        return ChatOptions(
            tools=tuple(tool.plain() for tool in self.tools or ()),
            tool_choice=named
            if choice.type == "tool"
            else {"any": "required"}.get(choice.type, choice.type),
            parallel_tool_calls=not choice.disable_parallel_tool_use,
            reasoning_effort=effort,
            as_streamed=True,
        )

    def to_template_kwargs(self) -> dict[str, Any] | None:
        """Return what the chat template is told beside the messages."""
        wanted = None if self.thinking is None else self.thinking.is_wanted
        return None if wanted is None else {"enable_thinking": wanted}


class MessagesRequest(_Conversation):
    """`POST /v1/messages`. `priority`, `deadline_s` and `on_disconnect` are Relais's own."""

    max_tokens: Annotated[int, Whole(1, MAX_TOKENS)] = Field(
        description="The most tokens of the answer. It ends earlier where the context does."
    )
    stream: bool | None = Field(default=None, description="Server-sent events, or one object.")
    stop_sequences: Annotated[list[StopString], Field(fail_fast=True, max_length=16)] | None = None
    temperature: float | None = Field(default=None, ge=0, le=1)
    top_p: float | None = Field(default=None, gt=0, le=1)
    top_k: Annotated[int, Whole(-1, MAX_TOKENS)] | None = None
    metadata: Metadata | None = Field(default=None, description="No effect: nothing is stored.")
    service_tier: Annotated[
        Literal["auto", "standard_only"] | None, NotSupported("there is one tier; see priority")
    ] = None
    priority: RequestPriority = Field(
        default=Priority.NORMAL, description="High goes before normal before low, with ageing."
    )
    deadline_s: Deadline | None = Field(
        default=None, description="Seconds after which the request expires."
    )
    on_disconnect: OrNull[OnDisconnect] = Field(
        default=OnDisconnect.CANCEL,
        description="What becomes of the request when the client leaves.",
    )

    diagnostics: Hint = Field(default=None, description="No effect.")
    container: Annotated[None, NotSupported("containers are not supported")] = None
    inference_geo: Annotated[None, NotSupported("the deployment is where it is")] = None
    fallbacks: Annotated[None, NotSupported("no other model answers instead")] = None
    fallback_credit_token: Annotated[None, NotSupported("no other model answers instead")] = None
    thread: Annotated[None, NotSupported("conversations are not stored")] = None

    @field_validator("max_tokens")
    @classmethod
    def _has_room_beside_thinking(cls, most: int, info: ValidationInfo) -> int:
        thinking = info.data.get("thinking")
        if thinking is not None and (thinking.budget_tokens or 0) >= most:
            raise PydanticCustomError("max_tokens", "it must be more than thinking.budget_tokens")
        return most

    def to_sampling(self) -> Sampling:
        """Convert to the job's type."""
        shape = self.output_format
        if self.output_config is not None and self.output_config.format is not None:
            shape = self.output_config.format
        return Sampling(
            max_tokens=self.max_tokens,
            adapts_bounds=True,
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=self.top_k,
            stop=tuple(self.stop_sequences or ()),
            thinking_token_budget=None if self.thinking is None else self.thinking.budget_tokens,
            response_format=None
            if shape is None
            else {
                "type": "json_schema",
                "json_schema": {"name": "answer", "schema": shape.schema_},
            },
        )


class CountTokensRequest(_Conversation):
    """`POST /v1/messages/count_tokens`."""
