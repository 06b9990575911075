"""vLLM's additional fields that Relais refuses by name, with the values at which they have no effect.

Supported fields are with the other sampling parameters, and in `api/schemas/prompting.py`.
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
    logprob_token_ids: Annotated[None, NotSupported("see top_logprobs and logprobs")] = None
    spaces_between_special_tokens: Annotated[
        Literal[True] | None, NotSupported("special tokens are told apart")
    ] = None
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

    chat_template: Annotated[None, NotSupported("the model's own chat template is used")] = None
    media_io_kwargs: Annotated[None, NotSupported("only text is supported")] = None
    mm_processor_kwargs: Annotated[None, NotSupported("only text is supported")] = None
