"""Responses of the OpenAI routes: OpenAI's objects, with an additional `timings`."""

from __future__ import annotations

from typing import Annotated, Any, Literal, NotRequired

from pydantic import Field, with_config
from typing_extensions import TypedDict

from relais_common.jobs.events import Timings
from relais_common.jobs.job import ModelOperation
from relais_orchestrator.api.schemas.answers import CalledTool, ToolCallPart
from relais_orchestrator.api.schemas.closed import CLOSED
from relais_orchestrator.http.errors import ErrorResponse

StopReason = Annotated[
    str | int, Field(description="vLLM's: the stop string that was met, or the token's id.")
]
FinishReason = Annotated[str, Field(description="`stop`, `length` or `tool_calls`.")]


@with_config(CLOSED)
class CachedTokens(TypedDict):
    cached_tokens: int


@with_config(CLOSED)
class ReasoningTokens(TypedDict):
    reasoning_tokens: int


@with_config(CLOSED)
class UsageObject(TypedDict):
    """OpenAI's `usage`."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: NotRequired[
        Annotated[CachedTokens, Field(description="Left out while the answer is being written.")]
    ]
    completion_tokens_details: NotRequired[
        Annotated[ReasoningTokens, Field(description="Of models whose reasoning is told apart.")]
    ]


@with_config(CLOSED)
class Candidate(TypedDict):
    """A candidate token. `bytes` is its text in UTF-8."""

    token: str
    logprob: float
    bytes: list[int]


@with_config(CLOSED)
class ChatToken(TypedDict):
    """The chosen token. Its text is empty if it only begins a character."""

    token: str
    logprob: float
    bytes: list[int]
    top_logprobs: list[Candidate]


@with_config(CLOSED)
class ChatLogprobs(TypedDict):
    """Every token, in order. The last one may end the answer without being part of its text."""

    content: list[ChatToken]
    refusal: None


@with_config(CLOSED)
class TextLogprobs(TypedDict):
    """Every token, in order. `top_logprobs` has the chosen token too; `text_offset` counts characters."""

    tokens: list[str]
    token_logprobs: Annotated[
        list[float | None], Field(description="Null for the first token of an echoed prompt.")
    ]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


@with_config(CLOSED)
class PromptToken(TypedDict):
    """A candidate for the place of a prompt's token. As vLLM's."""

    logprob: float | None
    rank: int | None
    decoded_token: str


PromptLogprobs = Annotated[
    list[dict[str, PromptToken] | None],
    Field(description="Where `prompt_logprobs` asked for them: for each token, by token id."),
]
TokenIds = Annotated[list[int], Field(description="Where `return_token_ids` asked for them.")]


@with_config(CLOSED)
class ChatAnswer(TypedDict):
    role: Literal["assistant"]
    content: str | None
    refusal: None
    reasoning: NotRequired[str]
    reasoning_content: NotRequired[
        Annotated[str, Field(description="The same, for older clients.")]
    ]
    tool_calls: NotRequired[list[CalledTool]]


@with_config(CLOSED)
class ChatChoice(TypedDict):
    index: int
    message: ChatAnswer
    logprobs: ChatLogprobs | None
    finish_reason: FinishReason
    stop_reason: NotRequired[StopReason]
    token_ids: NotRequired[TokenIds]


@with_config(CLOSED)
class ChatCompletion(TypedDict):
    """The response to a chat."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoice]
    usage: UsageObject | None
    timings: Timings
    prompt_token_ids: NotRequired[TokenIds]
    prompt_logprobs: NotRequired[PromptLogprobs]


@with_config(CLOSED)
class ChatDelta(TypedDict):
    role: NotRequired[Literal["assistant"]]
    content: NotRequired[str]
    reasoning: NotRequired[str]
    reasoning_content: NotRequired[
        Annotated[str, Field(description="The same, for older clients.")]
    ]
    tool_calls: NotRequired[list[ToolCallPart]]


@with_config(CLOSED)
class ChatChunkChoice(TypedDict):
    index: int
    delta: ChatDelta
    logprobs: ChatLogprobs | None
    finish_reason: FinishReason | None
    stop_reason: NotRequired[StopReason]
    token_ids: NotRequired[TokenIds]


@with_config(CLOSED)
class ChatCompletionChunk(TypedDict):
    """A chunk of a streamed chat. The one with `usage` and `timings` has no choices; if usage was requested,
    `usage` is null in the others, or the usage so far with `continuous_usage_stats`.
    """

    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    choices: list[ChatChunkChoice]
    usage: NotRequired[UsageObject | None]
    timings: NotRequired[Timings]
    prompt_token_ids: NotRequired[TokenIds]


@with_config(CLOSED)
class TextChoice(TypedDict):
    index: int
    text: str
    logprobs: TextLogprobs | None
    finish_reason: FinishReason | None
    stop_reason: NotRequired[StopReason]
    token_ids: NotRequired[TokenIds]
    prompt_token_ids: NotRequired[TokenIds]
    prompt_logprobs: NotRequired[PromptLogprobs]


@with_config(CLOSED)
class TextCompletionChunk(TypedDict):
    """A chunk of a streamed text completion. The one with `usage` and `timings` has no choices; if usage was
    requested, `usage` is null in the others, or the usage so far with `continuous_usage_stats`.
    """

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[TextChoice]
    usage: NotRequired[UsageObject | None]
    timings: NotRequired[Timings]


@with_config(CLOSED)
class TextCompletion(TypedDict):
    """The response to a text completion."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[TextChoice]
    usage: UsageObject | None
    timings: Timings


@with_config(CLOSED)
class ModelState(TypedDict):
    """What a model does, and its state, at most one second old; only `operation` while the store does not answer."""

    operation: Annotated[
        ModelOperation,
        Field(
            description="`chat`: it writes text; `embeddings`: it is an embedding model; `rerank`: it is a"
            " cross-encoder; `classify`: it is a classification model."
        ),
    ]
    state: NotRequired[
        Annotated[
            Literal["ready", "busy", "no_worker"],
            Field(
                description="A request would begin at once; wait for a place; wait for a worker that can run it. "
                "It is accepted in each case."
            ),
        ]
    ]
    workers: NotRequired[Annotated[int, Field(description="Alive and able to run it.")]]
    capacity: NotRequired[Annotated[int, Field(description="Requests they run at once.")]]
    running: NotRequired[int]
    waiting: NotRequired[int]
    estimated_wait_s: NotRequired[
        Annotated[
            float | None,
            Field(description="For a request that came now; null until one was measured."),
        ]
    ]


@with_config(CLOSED)
class ModelObject(TypedDict):
    """A model that requests can name."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    root: Annotated[str, Field(description="The model behind an alias; else the id itself.")]
    parent: Annotated[
        str | None,
        Field(
            description="The model that this one is a LoRA adapter of; null while no worker tells."
        ),
    ]
    max_model_len: Annotated[
        int | None,
        Field(description="Prompt and answer together, in tokens; null while no worker tells."),
    ]
    relais: ModelState


@with_config(CLOSED)
class ModelList(TypedDict):
    """The declared models and their aliases."""

    object: Literal["list"]
    data: list[ModelObject]


EVENTS: tuple[tuple[str, Any], ...] = (
    ("message", ChatCompletionChunk),
    ("message", ErrorResponse),
)
"""Names of a chat's events, and the types of their data."""
