"""Tools that a chat's answer may call, and whether it shall reason: OpenAI's fields."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

from msgspec.structs import replace
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    StringConstraints,
    ValidationInfo,
    field_validator,
)
from pydantic_core import PydanticCustomError

from relais_common.jobs.chat import ChatOptions
from relais_orchestrator.api.schemas.branches import CHOSEN, branch
from relais_orchestrator.api.schemas.prompting import ChatPromptFields
from relais_orchestrator.api.schemas.sampling import MAX_KEYWORDS, STRICT
from relais_orchestrator.api.schemas.structure_bounds import check_parameters, check_schema

_Tool = TypeVar("_Tool", bound=BaseModel)
MAX_TOOLS = 128
MAX_TOOLS_BYTES = 262_144
"""Of all tools together, as JSON."""

ToolName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.-]{1,128}$")]


class Function(BaseModel):
    model_config = STRICT

    name: ToolName
    description: str | None = None
    parameters: Annotated[dict[str, Any], Field(max_length=MAX_KEYWORDS)] | None = Field(
        default=None, description="A JSON schema of the arguments, which are an object."
    )
    strict: bool | None = Field(
        default=None,
        description="Keep the arguments to the schema where the model may choose whether to call. Needs the "
        "deployment's backend of structured outputs to be `xgrammar`; else no effect.",
    )

    _bounded = field_validator("parameters")(check_schema)
    _schema = field_validator("parameters")(check_parameters)


class Tool(BaseModel):
    model_config = STRICT

    type: Literal["function"]
    function: Function


class NamedFunction(BaseModel):
    model_config = STRICT

    name: ToolName


class NamedTool(BaseModel):
    """The only tool that may, and must, be called."""

    model_config = STRICT

    type: Literal["function"]
    function: NamedFunction


class AllowedToolsList(BaseModel):
    model_config = STRICT

    mode: Literal["auto", "required"]
    tools: Annotated[list[NamedTool], Field(fail_fast=True, min_length=1, max_length=MAX_TOOLS)]


class AllowedTools(BaseModel):
    """The only tools that may be called: the others are left out of the prompt."""

    model_config = STRICT

    type: Literal["allowed_tools"]
    allowed_tools: AllowedToolsList


def fit_a_prompt(tools: list[_Tool]) -> list[_Tool]:
    """Refuse tools that are longer together than a prompt needs."""
    if sum(len(tool.model_dump_json().encode()) for tool in tools) > MAX_TOOLS_BYTES:
        raise PydanticCustomError("too_long", "at most {most} bytes", {"most": MAX_TOOLS_BYTES})
    return tools


Tools = (
    Annotated[list[Tool], Field(fail_fast=True, max_length=MAX_TOOLS), AfterValidator(fit_a_prompt)]
    | None
)


def plain(tools: list[Tool] | None) -> tuple[dict[str, Any], ...]:
    """Return tools as a job has them."""
    return tuple(tool.model_dump(exclude_none=True) for tool in tools or ())


NEEDS_TOOLS: dict[str, JsonValue] = {
    "anyOf": [
        {"properties": {"tool_choice": {"enum": [None, "none", "auto"]}}},
        {"required": ["tools"], "properties": {"tools": {"type": "array", "minItems": 1}}},
    ]
}


class ChatFields(ChatPromptFields):
    """Fields of chats beside their messages."""

    model_config = STRICT | ConfigDict(json_schema_extra={"allOf": [NEEDS_TOOLS]})

    tools: Tools = Field(default=None, description="Functions that the answer may call.")
    tool_choice: (
        Annotated[Literal["none", "auto", "required"], branch("mode")]
        | Annotated[
            NamedTool | AllowedTools,
            Field(discriminator="type"),
            branch(CHOSEN),
        ]
        | None
    ) = Field(default=None, description="`auto` where there are tools.")
    parallel_tool_calls: bool | None = Field(
        default=None, description="Whether the answer may have several calls; it may, by default."
    )
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = (
        Field(
            default=None,
            description="Told to the model's chat template as in vLLM: `none` as `enable_thinking: false`, another as "
            "`true`, unless `chat_template_kwargs` has it.",
        )
    )

    @field_validator("tool_choice")
    @classmethod
    def _chooses_a_tool(
        cls, choice: str | NamedTool | AllowedTools | None, info: ValidationInfo
    ) -> str | NamedTool | AllowedTools | None:
        if "tools" not in info.data or choice in (None, "none", "auto"):
            return choice
        names = {tool.function.name for tool in info.data["tools"] or ()}
        if not names:
            raise PydanticCustomError("no_tools", "only for requests with tools")
        chosen: list[NamedTool] = []
        if isinstance(choice, NamedTool):
            chosen = [choice]
        elif isinstance(choice, AllowedTools):
            chosen = choice.allowed_tools.tools
        if any(one.function.name not in names for one in chosen):
            raise PydanticCustomError("unknown_tool", "no tool has this name")
        return choice

    def to_options(self) -> ChatOptions:
        """Convert to the job's type."""
        options = ChatOptions(
            reasoning_effort=self.reasoning_effort,
            include_reasoning=self.include_reasoning is not False,
            add_generation_prompt=self.add_generation_prompt is not False,
            continue_final_message=bool(self.continue_final_message),
            documents=tuple(self.documents or ()),
        )
        if not self.tools:
            return options
        tools, choice = self.tools, self.tool_choice or "auto"
        if isinstance(choice, AllowedTools):
            allowed = {tool.function.name for tool in choice.allowed_tools.tools}
            tools = [tool for tool in tools if tool.function.name in allowed]
            choice = choice.allowed_tools.mode
        return replace(
            options,
            tools=plain(tools),
            tool_choice=choice.model_dump() if isinstance(choice, NamedTool) else choice,
            parallel_tool_calls=self.parallel_tool_calls is not False,
        )
