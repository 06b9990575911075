"""Answers of chats, as every route returns them: OpenAI's shape."""

from __future__ import annotations

from typing import Annotated, Literal, NotRequired

from pydantic import Field, with_config
from typing_extensions import TypedDict

from relais_orchestrator.api.schemas.closed import CLOSED


@with_config(CLOSED)
class CalledFunction(TypedDict):
    name: str
    arguments: Annotated[str, Field(description="JSON as the model wrote it: check it.")]


@with_config(CLOSED)
class CalledTool(TypedDict):
    """A tool call."""

    id: str
    type: Literal["function"]
    function: CalledFunction


Stretch = tuple[Literal["reasoning", "text", "call"], int]


@with_config(CLOSED)
class AnswerMessage(TypedDict):
    """An answer with reasoning or tool calls. It may be sent back as a message."""

    role: Literal["assistant"]
    content: NotRequired[str]
    reasoning: NotRequired[str]
    tool_calls: NotRequired[list[CalledTool]]
    stretches: Annotated[
        NotRequired[list[Stretch]],
        Field(description="Where reasoning, text and calls alternate: of what, and how much."),
    ]


@with_config(CLOSED)
class FunctionPart(TypedDict):
    name: NotRequired[str]
    arguments: NotRequired[str]


@with_config(CLOSED)
class ToolCallPart(TypedDict):
    """The next part of the call with this index. Id, type and name come once."""

    index: int
    id: NotRequired[str]
    type: NotRequired[Literal["function"]]
    function: NotRequired[FunctionPart]
