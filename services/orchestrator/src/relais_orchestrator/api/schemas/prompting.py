"""How prompts are made, and what is told of them: vLLM's fields."""

from __future__ import annotations

from typing import Annotated

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    StringConstraints,
    ValidationInfo,
    field_validator,
)
from pydantic_core import PydanticCustomError

from relais_common.jobs.job import PromptOptions
from relais_orchestrator.api.schemas.numbers import Whole
from relais_orchestrator.api.schemas.sampling import MAX_LOGPROBS, MAX_TOKENS, STRICT

MAX_DOCUMENTS = 256
MAX_DOCUMENT_FIELDS = 16

ADD_SPECIAL_TOKENS = (
    "Put the model's special tokens before the prompt. By default, before plain prompts only: a chat's template writes "
    "its own."
)


class PromptFields(BaseModel):
    """Fields of all requests that write text."""

    model_config = STRICT

    add_special_tokens: bool | None = Field(default=None, description=ADD_SPECIAL_TOKENS)
    truncate_prompt_tokens: Annotated[int, Whole(-1, MAX_TOKENS)] | None = Field(
        default=None,
        description="Keep so many of the prompt's last tokens; -1 for what fits the model's context.",
    )
    prompt_logprobs: Annotated[int, Whole(0, MAX_LOGPROBS)] | None = Field(
        default=None,
        description="Tell the log probabilities of the prompt's tokens, and of so many of the likeliest in their "
        "place; 32,768 in all. Not with `stream: true`.",
    )
    return_token_ids: bool | None = Field(
        default=None, description="Tell the token ids of the prompt and of the answer."
    )

    def to_prompting(
        self, *, echo: bool = False, echoed_logprobs: int | None = None
    ) -> PromptOptions:
        """Convert to the job's type.

        Args:
            echoed_logprobs: what is told of the prompt's tokens if it is repeated, and `prompt_logprobs` is not given.
        """
        logprobs = self.prompt_logprobs
        if logprobs is None and echo:
            logprobs = echoed_logprobs
        return PromptOptions(
            add_special_tokens=self.add_special_tokens,
            truncate_prompt_tokens=self.truncate_prompt_tokens,
            echo=echo,
            return_token_ids=bool(self.return_token_ids),
            prompt_logprobs=logprobs,
        )


Document = Annotated[
    dict[Annotated[str, StringConstraints(max_length=64)], str],
    Field(max_length=MAX_DOCUMENT_FIELDS),
]


CONTINUES_ALONE: dict[str, JsonValue] = {
    "anyOf": [
        {"properties": {"continue_final_message": {"enum": [None, False]}}},
        {
            "required": ["add_generation_prompt"],
            "properties": {"add_generation_prompt": {"const": False}},
        },
    ]
}


class PromptEndFields(BaseModel):
    """Fields of chats: how their prompt ends."""

    model_config = STRICT | ConfigDict(json_schema_extra={"allOf": [CONTINUES_ALONE]})

    add_generation_prompt: bool | None = Field(
        default=None, description="End the prompt with what begins an answer; so by default."
    )
    continue_final_message: bool | None = Field(
        default=None,
        description="Let the answer continue the last message. Only with `add_generation_prompt: false`.",
    )

    @field_validator("continue_final_message")
    @classmethod
    def _one_of_both(cls, continues: bool | None, info: ValidationInfo) -> bool | None:
        if continues and info.data.get("add_generation_prompt") is not False:
            raise PydanticCustomError(
                "continue_final_message", "only with add_generation_prompt: false"
            )
        return continues


class ChatPromptFields(PromptEndFields):
    """Fields of chats: how their template writes the prompt."""

    documents: Annotated[list[Document], Field(fail_fast=True, max_length=MAX_DOCUMENTS)] | None = (
        Field(
            default=None,
            description="For chat templates that know them: objects with `title` and `text`.",
        )
    )
    include_reasoning: bool | None = Field(
        default=None, description="Tell the reasoning; so by default. It is counted either way."
    )
