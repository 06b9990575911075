"""The events of a channel, in order. Event n has sequence number n, from 1."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Self

from relais_common.jobs.chat import Message, ToolCallDelta
from relais_common.jobs.errors import ErrorInfo
from relais_common.jobs.job import Status, StopReason


@dataclass(frozen=True, slots=True)
class Queued:
    """The request was accepted. The position is an upper bound; see `jobs.Accepted`."""

    queue_position: int
    estimated_wait_s: float | None


@dataclass(frozen=True, slots=True)
class Started:
    """The engine has accepted the prompt.

    Attributes:
        input_tokens: prompt length after the chat template; None if a server does not report it, or of several prompts.
    """

    input_tokens: int | None

    @classmethod
    def with_prompts(cls, prompts: Sequence[Sequence[int]]) -> Self:
        """Of a job with these prompts, as far as their ids are known."""
        return cls(len(prompts[0]) or None if len(prompts) == 1 else None)


@dataclass(frozen=True, slots=True)
class RankedToken:
    """A candidate token, and the natural logarithm of its probability."""

    token: str
    logprob: float


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """The chosen token, and the likeliest candidates for its place.

    Attributes:
        token: its text, never held back; empty if it only begins a character, which the token that ends it has whole.
        logprob: natural logarithm of its probability.
        top_logprobs: the requested number of candidates, likeliest first.
    """

    token: str
    logprob: float
    top_logprobs: tuple[RankedToken, ...] = ()


@dataclass(frozen=True, slots=True)
class PromptLogprob:
    """A candidate for the place of a prompt's token.

    Attributes:
        logprob, rank: None for the first token, before which there is nothing; 1 is the likeliest.
    """

    token_id: int
    token: str
    logprob: float | None
    rank: int | None


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt as the engine has it, for requests that ask for it; before the tokens of its answers.

    Attributes:
        text: where it is to be repeated.
        logprobs: where requested, of each token: itself, then the likeliest candidates.
        index: which of several.
    """

    token_ids: tuple[int, ...]
    text: str | None = None
    logprobs: tuple[tuple[PromptLogprob, ...], ...] | None = None
    index: int = 0


@dataclass(frozen=True, slots=True)
class AnswerEnd:
    """How one of several answers ended.

    Attributes:
        message: as in `Completed`; in its `answers`, of every answer.
        reasoning_tokens: as in `Usage`.
    """

    finish_reason: str
    output_tokens: int
    stop_reason: str | int | None = None
    message: Message | None = None
    reasoning_tokens: int | None = None


@dataclass(slots=True)  # not frozen, which would double the cost of making one
class Token:
    """One step of the engine: its text and its token ids.

    `text` may be empty while bytes of a character, or a possible stop string, are held back, and where the tokens are
    those of reasoning or of a tool call.

    Attributes:
        logprobs: one for each id, if requested.
        reasoning: the next part of what the model thinks before its answer.
        tool_calls: the next parts of the answer's tool calls.
        index: of the answer, among all of the job: number of the prompt times `n`, plus the number of the answer to it.
        end: on the last one of each answer, if the job has several.
    """

    text: str
    token_ids: tuple[int, ...]
    logprobs: tuple[TokenLogprob, ...] | None = None
    reasoning: str = ""
    tool_calls: tuple[ToolCallDelta, ...] = ()
    index: int = 0
    end: AnswerEnd | None = None

    @property
    def says_something(self) -> bool:
        """Whether a client can see any of it."""
        return bool(self.text or self.reasoning or self.tool_calls)


@dataclass(frozen=True, slots=True)
class Restarted:
    """The answer begins again, because its worker died and it cannot continue: discard the text so far."""

    reason: str


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens, as OpenTelemetry's `gen_ai.usage.*` counts them.

    Attributes:
        input_tokens: None where a remote server keeps it to itself; accounts then count none.
        reasoning_tokens: those of the output that are reasoning; None where nobody tells them apart.
        images: in the prompt.
    """

    input_tokens: int | None
    output_tokens: int
    cached_tokens: int = 0
    reasoning_tokens: int | None = None
    images: int = 0


MOST_TOKENS = 2**40
"""Of one request. Where somebody says more, he has not counted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timings:
    """Seconds spent in each phase of the run that ended the job.

    Attributes:
        queue_s: from acceptance to the take.
        prefill_s: from the take to the first token.
        decode_s: from the first token to the last.
    """

    queue_s: float
    prefill_s: float
    decode_s: float


@dataclass(frozen=True, slots=True)
class Vectors:
    """What a request for vectors left beside its log; scores are vectors of one dimension, and a dimension of
    probabilities is a class.

    Attributes:
        truncated: inputs that were longer than the model reads, and were cut.
        labels: the names of the classes; None where the model's server has not told it.
    """

    count: int
    dimensions: int
    truncated: int = 0
    labels: tuple[str | None, ...] = ()


@dataclass(frozen=True, slots=True)
class Completed:
    """The engine came to an end of its own: `stop`, `length` or `tool_calls`, OpenAI's `finish_reason`.

    Attributes:
        message: the whole answer, where it is more than the text of its tokens: it has reasoning or tool calls, or the
            model's calls could not be read and are text.
        answers: all of them, if the job has several; the other fields are the first's, but for the usage of all.
    """

    finish_reason: str
    usage: Usage
    timings: Timings
    stop_reason: str | int | None = None
    vectors: Vectors | None = None
    message: Message | None = None
    answers: tuple[AnswerEnd, ...] = ()


@dataclass(frozen=True, slots=True)
class Failed:
    """The request ended by an error."""

    error: ErrorInfo


@dataclass(frozen=True, slots=True)
class Cancelled:
    """The request was stopped by its client, or because nobody read it any more."""

    reason: StopReason


@dataclass(frozen=True, slots=True)
class Expired:
    """The request's deadline passed."""

    reason: StopReason = field(default=StopReason.DEADLINE)


Terminal = Completed | Failed | Cancelled | Expired
Event = Queued | Started | Prompt | Token | Restarted | Terminal


def counted_usage(terminal: Terminal) -> Usage | None:
    """What the holder of a job says that it took; None where it says nothing, or nothing that can be true."""
    if not isinstance(terminal, Completed):
        return None
    usage = terminal.usage
    usage = usage if usage.input_tokens is not None else replace(usage, input_tokens=0)
    for number in (
        usage.input_tokens,
        usage.output_tokens,
        usage.cached_tokens,
        usage.reasoning_tokens or 0,
    ):
        if type(number) is not int or not 0 <= number <= MOST_TOKENS:
            return None
    return usage


STATUS_OF: dict[type[Terminal], Status] = {
    Completed: Status.COMPLETED,
    Failed: Status.FAILED,
    Cancelled: Status.CANCELLED,
    Expired: Status.EXPIRED,
}
