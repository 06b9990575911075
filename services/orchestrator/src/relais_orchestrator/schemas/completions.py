"""What the OpenAI routes answer: OpenAI's objects, with `timings` beside `usage`."""

from __future__ import annotations

from typing import Annotated, Literal, NotRequired

from pydantic import Field, with_config
from typing_extensions import TypedDict

from relais_common.events import Timings
from relais_orchestrator.schemas.closed import CLOSED

FinishReason = Annotated[str, Field(description="`stop` or `length`.")]


@with_config(CLOSED)
class CachedTokens(TypedDict):
    cached_tokens: int


@with_config(CLOSED)
class UsageObject(TypedDict):
    """OpenAI's `usage`."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: CachedTokens


@with_config(CLOSED)
class ChatAnswer(TypedDict):
    role: Literal["assistant"]
    content: str
    refusal: None


@with_config(CLOSED)
class ChatChoice(TypedDict):
    index: int
    message: ChatAnswer
    logprobs: None
    finish_reason: FinishReason


@with_config(CLOSED)
class ChatCompletion(TypedDict):
    """A whole answer to a chat."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoice]
    usage: UsageObject
    timings: Timings


@with_config(CLOSED)
class ChatDelta(TypedDict):
    role: NotRequired[Literal["assistant"]]
    content: NotRequired[str]


@with_config(CLOSED)
class ChatChunkChoice(TypedDict):
    index: int
    delta: ChatDelta
    logprobs: None
    finish_reason: FinishReason | None


@with_config(CLOSED)
class ChatCompletionChunk(TypedDict):
    """A piece of a streamed answer to a chat. The one with `usage` and `timings` has no choices."""

    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    choices: list[ChatChunkChoice]
    usage: NotRequired[UsageObject]
    timings: NotRequired[Timings]


@with_config(CLOSED)
class TextChoice(TypedDict):
    index: int
    text: str
    logprobs: None
    finish_reason: FinishReason | None


@with_config(CLOSED)
class TextCompletionChunk(TypedDict):
    """A piece of a streamed text. The one with `usage` and `timings` has no choices."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[TextChoice]
    usage: NotRequired[UsageObject]
    timings: NotRequired[Timings]


@with_config(CLOSED)
class TextCompletion(TypedDict):
    """A whole text."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[TextChoice]
    usage: UsageObject
    timings: Timings


@with_config(CLOSED)
class ModelObject(TypedDict):
    """A model that requests may name."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str


@with_config(CLOSED)
class ModelList(TypedDict):
    """The declared models."""

    object: Literal["list"]
    data: list[ModelObject]
