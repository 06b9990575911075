"""Request bodies of the OpenAI routes: all of OpenAI's fields, and Relais's own three.

Unsupported fields are declared too, with the values at which they have no effect: these values are accepted, others
are refused by name. Undeclared fields are unknown. docs/compatibility.md has the table.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import (
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

from relais_common.jobs.job import OnDisconnect, Priority
from relais_orchestrator.api.openai.vllm_fields import RefusedOnBoth, RefusedOnChats
from relais_orchestrator.api.schemas.deployed import Deadline, TextModelName
from relais_orchestrator.api.schemas.messages import Empty, Messages, TemplateKwargs, fault
from relais_orchestrator.api.schemas.nulls import OrNull
from relais_orchestrator.api.schemas.numbers import Whole
from relais_orchestrator.api.schemas.priorities import RequestPriority
from relais_orchestrator.api.schemas.prompting import PromptFields
from relais_orchestrator.api.schemas.prompts import Given, Prompts, check_answers, n_of
from relais_orchestrator.api.schemas.sampling import (
    MAX_ANSWERS,
    MAX_LOGPROBS,
    MAX_TOKENS,
    ONE_CONSTRAINT,
    STRICT,
    SamplingParams,
)
from relais_orchestrator.api.schemas.tools import NEEDS_TOOLS, ChatFields
from relais_orchestrator.api.schemas.unsupported import VALUE, NotSupported

Label = Annotated[str, StringConstraints(max_length=512)]


class StreamOptions(BaseModel):
    model_config = STRICT

    include_usage: OrNull[bool] = Field(
        default=False, description="One more chunk before the end, with the usage."
    )
    continuous_usage_stats: bool | None = Field(
        default=None,
        description="vLLM's: the usage so far in every chunk; only with `include_usage`.",
    )
    include_obfuscation: Annotated[Literal[False] | None, NotSupported("chunks are not padded")] = (
        None
    )


# One rule for both, because generators of test data fail where a schema has many alternatives.
_WITH_STREAM_OR_WITHOUT: dict[str, JsonValue] = {
    "anyOf": [
        {"properties": {"stream": {"enum": [None, False]}, "stream_options": {"type": "null"}}},
        {
            "required": ["stream"],
            "properties": {"stream": {"const": True}, "prompt_logprobs": {"enum": [None, 0]}},
        },
    ]
}
_TOP_NEEDS_LOGPROBS: dict[str, JsonValue] = {
    "anyOf": [
        {"properties": {"top_logprobs": {"enum": [None, 0]}}},
        {"required": ["logprobs"], "properties": {"logprobs": {"const": True}}},
    ]
}

_NOTHING_BUT_AN_ECHO: dict[str, JsonValue] = {
    "anyOf": [
        {"properties": {"max_tokens": {"not": {"const": 0}}}},
        {"required": ["echo"], "properties": {"echo": {"const": True}}},
    ]
}


class _Common(SamplingParams, PromptFields, RefusedOnBoth):
    """Fields of both routes; the last three are Relais's own."""

    model_config = STRICT | ConfigDict(
        json_schema_extra={"allOf": [ONE_CONSTRAINT, _WITH_STREAM_OR_WITHOUT]}
    )

    model: TextModelName
    stream: bool | None = Field(default=None, description="Server-sent events, or one object.")
    stream_options: StreamOptions | None = Field(
        default=None, description="Only with `stream: true`."
    )
    user: Label | None = Field(default=None, description="No effect.")
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

    @field_validator("stream_options")
    @classmethod
    def _options_need_stream(
        cls, options: StreamOptions | None, info: ValidationInfo
    ) -> StreamOptions | None:
        if options is not None and info.data.get("stream") is not True:
            raise PydanticCustomError("stream_options", "only for requests with stream: true")
        return options

    @model_validator(mode="after")
    def _prompt_is_not_streamed(self) -> Self:
        if self.stream and self.prompt_logprobs:
            raise fault("prompt_logprobs", PydanticCustomError("stream", "not with stream: true"))
        return self

    @property
    def include_usage(self) -> bool:
        return self.stream_options is not None and self.stream_options.include_usage

    @property
    def continuous_usage(self) -> bool:
        return self.stream_options is not None and bool(self.stream_options.continuous_usage_stats)


class ChatCompletionRequest(_Common, ChatFields, TemplateKwargs, RefusedOnChats):
    """`POST /v1/chat/completions`."""

    model_config = STRICT | ConfigDict(
        json_schema_extra={
            "allOf": [
                ONE_CONSTRAINT,
                _WITH_STREAM_OR_WITHOUT,
                _TOP_NEEDS_LOGPROBS,
                NEEDS_TOOLS,
            ]
        }
    )

    messages: Messages
    max_completion_tokens: Annotated[int, Whole(1, MAX_TOKENS)] | None = Field(
        default=None,
        description="The most tokens of the answer; goes before `max_tokens`, its older name.",
    )

    echo: bool | None = Field(
        default=None,
        description="Repeat the last message before the answer, if it is an assistant's.",
    )
    logprobs: bool | None = Field(default=None, description="Tell each token's log probability.")
    top_logprobs: Annotated[int, Whole(0, MAX_LOGPROBS)] | None = Field(
        default=None,
        description="And those of so many of the likeliest in its place; only with `logprobs: true`.",
    )

    # Labels and hints, which have no effect on the answer at OpenAI either.
    metadata: (
        Annotated[
            dict[Annotated[str, StringConstraints(max_length=64)], Label], Field(max_length=16)
        ]
        | None
    ) = Field(default=None, description="No effect: nothing is stored.")
    safety_identifier: Label | None = Field(default=None, description="No effect.")
    prompt_cache_key: Label | None = Field(
        default=None, description="No effect: every prompt's prefix may be cached."
    )
    service_tier: Annotated[
        Literal["auto", "default"] | None, NotSupported("there is one tier; see priority")
    ] = None

    # Not supported, except at values without effect.
    functions: Annotated[Empty | None, NotSupported("see tools")] = None
    function_call: Annotated[Literal["none", "auto"] | None, NotSupported("see tool_choice")] = None
    modalities: Annotated[
        Annotated[list[Literal["text"]], Field(fail_fast=True, min_length=1, max_length=1)] | None,
        NotSupported("only text is supported"),
    ] = None
    audio: Annotated[None, NotSupported("audio is not supported")] = None
    web_search_options: Annotated[None, NotSupported("web search is not supported")] = None
    verbosity: Annotated[
        Literal["medium"] | None,
        NotSupported("the length of answers cannot be set; see max_completion_tokens"),
    ] = None
    prediction: Annotated[None, NotSupported("predicted outputs are not supported")] = None
    moderation: Annotated[None, NotSupported("moderation is not supported")] = None
    prompt_cache_options: Annotated[None, NotSupported("caching cannot be set")] = None
    prompt_cache_retention: Annotated[
        Literal["in_memory"] | None, NotSupported("prompts are cached in memory only")
    ] = None
    store: Annotated[Literal[False] | None, NotSupported("answers are not kept for you")] = None

    @field_validator("top_logprobs")
    @classmethod
    def _top_needs_logprobs(cls, top: int | None, info: ValidationInfo) -> int | None:
        if top and info.data.get("logprobs") is not True:
            raise PydanticCustomError("top_logprobs", "only for requests with logprobs: true")
        return top

    @property
    def told_logprobs(self) -> int | None:
        """Return the value for `Sampling.logprobs`."""
        return (self.top_logprobs or 0) if self.logprobs else None


class CompletionRequest(_Common):
    """`POST /v1/completions`. A prompt is text or token ids; of a list of prompts, each is answered `n` times."""

    model_config = STRICT | ConfigDict(
        json_schema_extra={
            "allOf": [
                ONE_CONSTRAINT,
                _WITH_STREAM_OR_WITHOUT,
                _NOTHING_BUT_AN_ECHO,
            ]
        }
    )

    prompt: Prompts
    max_tokens: Annotated[int, Whole(0, MAX_TOKENS)] | None = Field(
        default=16, description="The most tokens of the answer; 0 for none, with `echo`."
    )
    echo: bool | None = Field(
        default=None,
        description="Repeat the prompt before the answer, with its log probabilities where `logprobs` asks for them.",
    )
    logprobs: Annotated[int, Whole(0, MAX_LOGPROBS)] | None = Field(
        default=None,
        description="Tell each token's log probability, and those of so many of the likeliest in its place.",
    )

    best_of: Annotated[int, Whole(1, MAX_ANSWERS)] | None = Field(
        default=None, description="The same as `n` only: all answers are returned."
    )

    # Not supported, except at values without effect.
    suffix: Annotated[None, NotSupported("text after the answer is not supported")] = None

    @field_validator("prompt")
    @classmethod
    def _bounded(cls, prompt: Given, info: ValidationInfo) -> Given:
        check_answers(n_of(info), prompt)
        return prompt

    @model_validator(mode="after")
    def _nothing_but_an_echo(self) -> Self:
        if self.max_tokens == 0 and not self.echo:
            raise fault("max_tokens", PydanticCustomError("max_tokens", "0 only with echo: true"))
        return self

    @field_validator("best_of")
    @classmethod
    def _best_of_all(cls, best_of: int | None, info: ValidationInfo) -> int | None:
        if best_of not in (None, n_of(info)):
            raise PydanticCustomError(VALUE, "the same as n only")
        return best_of
