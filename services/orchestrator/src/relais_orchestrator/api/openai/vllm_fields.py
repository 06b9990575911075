"""vLLM's additional fields that Relais refuses by name, with the values at which they have no effect.

Supported fields are with the other sampling parameters.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel

from relais_orchestrator.api.schemas.sampling import STRICT
from relais_orchestrator.api.schemas.unsupported import NotSupported


class RefusedOnBoth(BaseModel):
    """Fields of chats and text completions."""

    model_config = STRICT

    use_beam_search: Annotated[
        Literal[False] | None, NotSupported("beam search is not supported")
    ] = None
    length_penalty: Annotated[None, NotSupported("beam search is not supported")] = None
    prompt_logprobs: Annotated[
        None, NotSupported("log probabilities of the prompt are not supported")
    ] = None
    logprob_token_ids: Annotated[None, NotSupported("see top_logprobs and logprobs")] = None
    return_tokens_as_token_ids: Annotated[
        Literal[False] | None, NotSupported("tokens are told as text")
    ] = None
    return_token_ids: Annotated[
        Literal[False] | None, NotSupported("token ids are told on /v1/requests")
    ] = None
    truncate_prompt_tokens: Annotated[
        None, NotSupported("a prompt that is too long is refused, not cut")
    ] = None
    spaces_between_special_tokens: Annotated[
        Literal[True] | None, NotSupported("special tokens are told apart")
    ] = None
    add_special_tokens: Annotated[None, NotSupported("the model's own rule is followed")] = None
    repetition_detection: Annotated[
        None, NotSupported("repetition is not looked for; see repetition_penalty")
    ] = None
    stream_interval: Annotated[
        Literal[1] | None, NotSupported("tokens are streamed as they come")
    ] = None
    cache_salt: Annotated[None, NotSupported("the prefix cache cannot be split")] = None
    request_id: Annotated[None, NotSupported("see the header X-Request-Id")] = None
    vllm_xargs: Annotated[None, NotSupported("extensions of vLLM are not supported")] = None


class RefusedOnChats(BaseModel):
    """Fields of chats only."""

    model_config = STRICT

    echo: Annotated[Literal[False] | None, NotSupported("the prompt is not repeated")] = None
    add_generation_prompt: Annotated[
        Literal[True] | None, NotSupported("an answer is always begun anew")
    ] = None
    continue_final_message: Annotated[
        Literal[False] | None, NotSupported("an answer is always begun anew")
    ] = None
    chat_template: Annotated[None, NotSupported("the model's own chat template is used")] = None
    documents: Annotated[None, NotSupported("put documents into the messages")] = None
    include_reasoning: Annotated[
        Literal[True] | None, NotSupported("reasoning is not told apart")
    ] = None
    media_io_kwargs: Annotated[None, NotSupported("only text is supported")] = None
    mm_processor_kwargs: Annotated[None, NotSupported("only text is supported")] = None
