"""Bodies of `/v1/tokenize` and `/v1/detokenize`: vLLM's."""

from __future__ import annotations

from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator, with_config
from pydantic_core import PydanticCustomError
from typing_extensions import TypedDict

from relais_orchestrator.api.schemas.closed import CLOSED
from relais_orchestrator.api.schemas.deployed import TextModelName
from relais_orchestrator.api.schemas.messages import Messages, TemplateKwargs
from relais_orchestrator.api.schemas.prompting import (
    ADD_SPECIAL_TOKENS,
    CONTINUES_ALONE,
    PromptEndFields,
)
from relais_orchestrator.api.schemas.sampling import STRICT, TokenIds
from relais_orchestrator.api.schemas.tools import Tools
from relais_orchestrator.api.schemas.unsupported import NotSupported


def _only(name: str, *without: str) -> dict[str, Any]:
    return {
        "required": [name],
        "properties": {
            name: {"not": {"type": "null"}},
            **{other: {"type": "null"} for other in without},
        },
    }


class TokenizeRequest(PromptEndFields, TemplateKwargs):
    """A text, or a chat as the model gets it, with its tools."""

    model_config = STRICT | ConfigDict(
        json_schema_extra={
            "allOf": [CONTINUES_ALONE],
            "oneOf": [
                _only("prompt", "messages", "tools", "chat_template_kwargs"),
                _only("messages", "prompt"),
            ],
        }
    )

    model: TextModelName
    prompt: str | None = None
    messages: Messages | None = None
    tools: Tools = None
    add_special_tokens: bool | None = Field(default=None, description=ADD_SPECIAL_TOKENS)
    return_token_strs: bool | None = Field(
        default=None, description="Tell each token as the tokenizer writes it, too."
    )
    chat_template: Annotated[None, NotSupported("the model's own chat template is used")] = None
    media_io_kwargs: Annotated[None, NotSupported("only text is supported")] = None
    mm_processor_kwargs: Annotated[None, NotSupported("only text is supported")] = None

    @model_validator(mode="after")
    def _one_input(self) -> Self:
        if (self.prompt is None) == (self.messages is None):
            raise PydanticCustomError("one_input", "give exactly one of prompt and messages")
        if self.messages is None and not (self.tools is None and self.chat_template_kwargs is None):
            raise PydanticCustomError(
                "goes_with", "tools and chat_template_kwargs go with messages only"
            )
        return self


class DetokenizeRequest(BaseModel):
    """Token ids of the model."""

    model_config = STRICT

    model: TextModelName
    tokens: TokenIds


@with_config(CLOSED)
class TokenizeResponse(TypedDict):
    """vLLM's."""

    count: int
    max_model_len: Annotated[
        int | None, Field(description="Prompt and answer together; null while no worker tells.")
    ]
    tokens: list[int]
    token_strs: list[str] | None


@with_config(CLOSED)
class DetokenizeResponse(TypedDict):
    """vLLM's."""

    prompt: str
