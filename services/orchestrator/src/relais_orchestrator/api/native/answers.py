"""Responses of the native routes."""

from __future__ import annotations

from typing import Annotated, NotRequired

from pydantic import Field, with_config
from typing_extensions import TypedDict

from relais_common.jobs.events import PromptLogprob, Timings, TokenLogprob, Usage, Vectors
from relais_common.jobs.job import Operation, Status
from relais_orchestrator.api.schemas.answers import AnswerMessage, ToolCallPart
from relais_orchestrator.api.schemas.closed import CLOSED
from relais_orchestrator.http.errors import ErrorObject

ChannelId = Annotated[
    str, Field(description="The request's name, and the handle to its stream and result.")
]
QueuePosition = Annotated[
    int, Field(description="1 for the next; an upper bound; 0 when it no longer waits.")
]
EstimatedWait = Annotated[
    float | None, Field(description="Seconds; null while nothing was measured.")
]
Instant = Annotated[float, Field(description="Seconds since the epoch, by Redis's clock.")]


@with_config(CLOSED)
class AcceptedResponse(TypedDict):
    """The request is queued."""

    channel_id: ChannelId
    status: Status
    queue_position: QueuePosition
    estimated_wait_s: EstimatedWait
    events_url: Annotated[
        str, Field(description="Where its events are, with a signed token that does for a key.")
    ]


@with_config(CLOSED)
class VectorsResult(TypedDict):
    """Where to fetch a request's vectors; scores are vectors of one dimension, and each class is one."""

    count: int
    dimensions: int
    truncated: Annotated[int, Field(description="Inputs longer than the model reads.")]
    labels: NotRequired[
        Annotated[list[str | None], Field(description="The names of classes, if these are theirs.")]
    ]
    url: str


@with_config(CLOSED)
class VectorsResponse(TypedDict):
    """A request's vectors, in the order of its inputs."""

    count: int
    dimensions: int
    vectors: list[list[float]]


@with_config(CLOSED)
class AnswerEndObject(TypedDict):
    """How one of several answers ended."""

    finish_reason: Annotated[str, Field(description="`stop`, `length` or `tool_calls`.")]
    output_tokens: int
    stop_reason: str | int | None
    reasoning_tokens: NotRequired[int]
    message: NotRequired[
        Annotated[AnswerMessage, Field(description="Set where the answer is more than its text.")]
    ]


@with_config(CLOSED)
class AnswerResult(TypedDict):
    """One of several answers."""

    finish_reason: Annotated[str, Field(description="`stop`, `length` or `tool_calls`.")]
    output_tokens: int
    stop_reason: str | int | None
    reasoning_tokens: NotRequired[int]
    message: AnswerMessage


Answers = Annotated[
    list[AnswerResult],
    Field(
        description="All answers, by index, if there are several; the fields beside are the first's."
    ),
]


@with_config(CLOSED)
class Result(TypedDict):
    """A completed request's answer."""

    text: str | None
    message: NotRequired[
        Annotated[AnswerMessage, Field(description="Set where the answer is more than its text.")]
    ]
    finish_reason: str
    usage: Usage
    timings: Timings
    vectors: Annotated[VectorsResult | None, Field(description="Set where vectors were asked for.")]
    answers: NotRequired[Answers]


@with_config(CLOSED)
class PromptEvent(TypedDict):
    """A prompt as the engine has it, where the request asks for any of this."""

    token_ids: list[int]
    text: Annotated[str | None, Field(description="Where `echo` asked for it.")]
    logprobs: Annotated[
        list[list[PromptLogprob]] | None,
        Field(
            description="Where asked for: of each token, itself and then the likeliest candidates."
        ),
    ]
    index: Annotated[int, Field(description="Of several prompts, which.")]


@with_config(CLOSED)
class TokenEvent(TypedDict):
    """One step of the engine. Its text may be empty; its ids are empty where a server does not tell them."""

    text: str
    token_ids: list[int]
    logprobs: NotRequired[list[TokenLogprob]]
    reasoning: NotRequired[str]
    tool_calls: NotRequired[list[ToolCallPart]]
    index: NotRequired[
        Annotated[
            int,
            Field(
                description="Of the answer, if it is not the first: number of the prompt times `n`, plus the number of"
                " the answer to it."
            ),
        ]
    ]
    end: NotRequired[
        Annotated[
            AnswerEndObject, Field(description="On an answer's last token, if there are several.")
        ]
    ]


@with_config(CLOSED)
class CompletedEvent(TypedDict):
    """The engine came to an end of its own."""

    finish_reason: Annotated[str, Field(description="`stop`, `length` or `tool_calls`.")]
    usage: Usage
    timings: Timings
    stop_reason: str | int | None
    vectors: Vectors | None
    message: NotRequired[
        Annotated[AnswerMessage, Field(description="Set where the answer is more than its text.")]
    ]
    text: NotRequired[Annotated[str | None, Field(description="The whole, where the log is gone.")]]
    answers: NotRequired[Answers]


@with_config(CLOSED)
class ChannelResponse(TypedDict):
    """The status of a request and, once it has ended, its result."""

    channel_id: ChannelId
    model: str
    operation: Operation
    status: Status
    queue_position: QueuePosition
    estimated_wait_s: EstimatedWait
    last_event_id: Annotated[int, Field(description="How many events its stream has so far.")]
    accepted_at_s: Instant
    started_at_s: Instant | None
    finished_at_s: Instant | None
    result: Annotated[Result | None, Field(description="Set where it has completed.")]
    replayed_as: Annotated[
        str | None, Field(description="The channel on which an operator had it run again.")
    ]
    error: Annotated[ErrorObject | None, Field(description="Set where it has failed.")]
