"""Sampling parameters, named as in OpenAI's API and vLLM; shared by all routes."""

from __future__ import annotations

from dataclasses import fields
from typing import Annotated, Any, Literal, Self

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

from relais_common.jobs.job import Sampling
from relais_orchestrator.api.schemas.branches import branch
from relais_orchestrator.api.schemas.nulls import OrNull
from relais_orchestrator.api.schemas.numbers import Whole
from relais_orchestrator.api.schemas.structure_bounds import (
    check_grammar,
    check_regex,
    check_schema,
)

STRICT = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)
"""Nothing is coerced: `"1"` is not a number, and unknown fields are refused by name."""

MAX_TOKENS = 1_000_000
MAX_KEYWORDS = 1024
"""Keywords at the top level of a JSON schema."""

MAX_ANSWERS = 16
"""To one prompt."""

MAX_LOGPROBS = 20  # OpenAI's bound for chats, and vLLM's default
StopString = Annotated[str, StringConstraints(min_length=1, max_length=256)]
TokenId = Annotated[int, Whole(0, 2**31 - 1)]
TokenIds = Annotated[list[TokenId], Field(fail_fast=True, min_length=1, max_length=MAX_TOKENS)]


class JsonSchema(BaseModel):
    model_config = STRICT

    name: Annotated[str, StringConstraints(min_length=1, max_length=64)]
    description: str | None = None
    schema_: Annotated[dict[str, Any], Field(max_length=MAX_KEYWORDS)] = Field(alias="schema")
    strict: bool | None = None

    _bounded = field_validator("schema_")(check_schema)


class TextFormat(BaseModel):
    model_config = STRICT

    type: Literal["text"]


class JsonObjectFormat(BaseModel):
    model_config = STRICT

    type: Literal["json_object"]


class JsonSchemaFormat(BaseModel):
    model_config = STRICT

    type: Literal["json_schema"]
    json_schema: JsonSchema


ResponseFormat = Annotated[
    TextFormat | JsonObjectFormat | JsonSchemaFormat, Field(discriminator="type")
]


STRUCTURES = ("json", "json_object", "regex", "choice", "grammar")


class StructuredOutputs(BaseModel):
    """A constraint on the answer: exactly one of these fields."""

    model_config = STRICT | ConfigDict(
        json_schema_extra={
            "oneOf": [
                {"required": [name], "properties": {name: {"not": {"type": "null"}}}}
                for name in STRUCTURES
            ]
        }
    )

    json_: Annotated[dict[str, Any], Field(max_length=MAX_KEYWORDS)] | None = Field(
        default=None, alias="json", description="A JSON schema."
    )
    json_object: Literal[True] | None = Field(default=None, description="Any JSON object.")
    regex: Annotated[str, StringConstraints(min_length=1, max_length=1024)] | None = None
    choice: (
        Annotated[
            list[Annotated[str, StringConstraints(min_length=1, max_length=256)]],
            Field(fail_fast=True, min_length=1, max_length=256),
        ]
        | None
    ) = Field(default=None, description="One of these texts.")
    grammar: Annotated[str, StringConstraints(min_length=1, max_length=16_384)] | None = Field(
        default=None, description="A context-free grammar in EBNF."
    )

    _bounded_schema = field_validator("json_")(check_schema)
    _bounded_regex = field_validator("regex")(check_regex)
    _bounded_grammar = field_validator("grammar")(check_grammar)

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if len(self.model_dump(exclude_none=True)) != 1:
            raise PydanticCustomError(
                "structured_outputs",
                "give exactly one of json, json_object, regex, choice, grammar",
            )
        return self


ONE_CONSTRAINT: dict[str, JsonValue] = {
    "anyOf": [
        {"properties": {name: {"type": "null"}}}
        for name in ("structured_outputs", "response_format")
    ]
}


class SamplingParams(BaseModel):
    """Sampling parameters; omitted fields use the model's defaults."""

    model_config = STRICT | ConfigDict(json_schema_extra={"allOf": [ONE_CONSTRAINT]})

    n: Annotated[int, Whole(1, MAX_ANSWERS)] | None = Field(
        default=None, description="Answers to each prompt. Each has a place, and counts."
    )
    max_tokens: Annotated[int, Whole(1, MAX_TOKENS)] | None = None
    min_tokens: Annotated[int, Whole(0, MAX_TOKENS)] | None = None
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, gt=0, le=1)
    top_k: Annotated[int, Whole(-1, MAX_TOKENS)] | None = None
    min_p: float | None = Field(default=None, ge=0, le=1)
    presence_penalty: float | None = Field(default=None, ge=-2, le=2)
    frequency_penalty: float | None = Field(default=None, ge=-2, le=2)
    repetition_penalty: float | None = Field(default=None, gt=0, le=10)
    seed: Annotated[int, Whole(-(2**63), 2**63 - 1)] | None = None
    stop: (
        Annotated[StopString, branch("text")]
        | Annotated[list[StopString], Field(fail_fast=True, max_length=16), branch("texts")]
        | None
    ) = None
    ignore_eos: OrNull[bool] = False
    logit_bias: (
        Annotated[
            dict[
                Annotated[str, StringConstraints(pattern=r"^\d{1,9}$")],
                Annotated[float, Field(ge=-100, le=100)],
            ],
            Field(max_length=1024, json_schema_extra={"additionalProperties": False}),
        ]
        | None
    ) = None
    response_format: ResponseFormat | None = None
    stop_token_ids: Annotated[list[TokenId], Field(fail_fast=True, max_length=256)] | None = None
    include_stop_str_in_output: OrNull[bool] = False
    skip_special_tokens: OrNull[bool] = True
    bad_words: (
        Annotated[
            list[Annotated[str, StringConstraints(min_length=1, max_length=256)]],
            Field(fail_fast=True, max_length=256),
        ]
        | None
    ) = None
    allowed_token_ids: (
        Annotated[list[TokenId], Field(fail_fast=True, min_length=1, max_length=4096)] | None
    ) = None
    return_tokens_as_token_ids: bool | None = Field(
        default=None, description="Tell tokens as `token_id:<id>` where log probabilities are told."
    )
    thinking_token_budget: Annotated[int, Whole(0, MAX_TOKENS)] | None = Field(
        default=None,
        description="The most tokens of reasoning; for models with a reasoning parser.",
    )
    structured_outputs: StructuredOutputs | None = Field(
        default=None, description="Only without `response_format`."
    )

    @field_validator("structured_outputs")
    @classmethod
    def _one_constraint(
        cls, wanted: StructuredOutputs | None, info: ValidationInfo
    ) -> StructuredOutputs | None:
        if wanted is not None and info.data.get("response_format") is not None:
            raise PydanticCustomError(
                "structured_outputs", "only for requests without response_format"
            )
        return wanted

    def to_sampling(
        self, *, max_tokens: int | None = None, logprobs: int | None = None
    ) -> Sampling:
        """Convert to the job's type.

        Args:
            max_tokens: overrides the field, for routes that name it differently.
            logprobs: as in `Sampling`; each route requests it differently.
        """
        named = {name: getattr(self, name) for name in _NAMED_ALIKE}
        given: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in named.items()
            if value is not None
        }
        if isinstance(self.stop, str):
            given["stop"] = (self.stop,)
        if max_tokens is not None:
            given["max_tokens"] = max_tokens
        if isinstance(self.response_format, TextFormat):
            del given["response_format"]
        for name in ("response_format", "structured_outputs"):
            if name in given:
                given[name] = given[name].model_dump(by_alias=True, exclude_none=True)
        return Sampling(**given, logprobs=logprobs)


_NAMED_ALIKE = [
    field.name for field in fields(Sampling) if field.name in SamplingParams.model_fields
]
