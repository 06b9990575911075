"""Routes of token ids, under our prefix and under vLLM's own paths."""

from __future__ import annotations

from relais_common.jobs.errors import RequestCancelled, RequestExpired
from relais_common.jobs.job import Operation
from relais_orchestrator.api.route import ResponseSpec, Route
from relais_orchestrator.api.shared import IDEMPOTENCY_KEY, NOT_ACCEPTED, NOT_ANSWERED
from relais_orchestrator.api.tokens import handlers
from relais_orchestrator.api.tokens.schemas import (
    DetokenizeRequest,
    DetokenizeResponse,
    TokenizeRequest,
    TokenizeResponse,
)

TAG = "Tokens"
ERRORS = (*NOT_ACCEPTED, *NOT_ANSWERED, RequestCancelled, RequestExpired)


def _tokenize(path: str, operation_id: str = "") -> Route:
    return Route(
        method="POST",
        path=path,
        operation_id=operation_id,
        handler=handlers.tokenize,
        asks=Operation.CHAT,
        tag=TAG,
        summary="Turn a text or a chat into token ids",
        description="It waits in the queue as any request does, and counts no tokens.",
        body=TokenizeRequest,
        example={"prompt": "How long is the wait at the town hall?"},
        headers=(IDEMPOTENCY_KEY,),
        responses=(ResponseSpec(200, "The ids.", TokenizeResponse),),
        errors=ERRORS,
    )


def _detokenize(path: str, operation_id: str = "") -> Route:
    return Route(
        method="POST",
        path=path,
        operation_id=operation_id,
        handler=handlers.detokenize,
        asks=Operation.CHAT,
        tag=TAG,
        summary="Turn token ids into their text",
        body=DetokenizeRequest,
        example={"tokens": [5, 6, 7]},
        headers=(IDEMPOTENCY_KEY,),
        responses=(ResponseSpec(200, "The text.", DetokenizeResponse),),
        errors=ERRORS,
    )


ROUTES = [
    _tokenize("/v1/tokenize"),
    _detokenize("/v1/detokenize"),
    _tokenize("/tokenize", "post_vllm_tokenize"),
    _detokenize("/detokenize", "post_vllm_detokenize"),
]
