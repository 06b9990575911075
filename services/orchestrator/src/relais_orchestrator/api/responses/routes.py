"""Declarations of the routes of OpenAI's Responses API."""

from __future__ import annotations

from relais_common.jobs.errors import (
    InvalidRequest,
    LogRewound,
    PayloadTooLarge,
    RequestCancelled,
    RequestExpired,
    ResponseNotFound,
    ResponsesUnavailable,
    StoreUnavailable,
    TooManyStreams,
)
from relais_common.jobs.events import Queued
from relais_common.jobs.job import Operation
from relais_orchestrator.api.docs.rate_limits import RATE_LIMITS
from relais_orchestrator.api.responses import handlers
from relais_orchestrator.api.responses.objects import (
    EVENTS,
    DeletedResponse,
    InputTokens,
    ItemList,
    ResponseObject,
)
from relais_orchestrator.api.responses.schemas import (
    InputTokensRequest,
    ItemsQuery,
    ResponseQuery,
    ResponsesRequest,
)
from relais_orchestrator.api.route import Events, ResponseSpec, Route
from relais_orchestrator.api.shared import (
    EVENTS_URL,
    IDEMPOTENCY_KEY,
    NOT_ACCEPTED,
    NOT_ANSWERED,
    QUEUE_MS,
)
from relais_orchestrator.api.shared import STREAM as RESUMABLE

TAG = "Responses"
STREAM = Events(
    "OpenAI's events in their order. Headers leave when the engine has accepted the request, and with "
    "`background: true` at once. A stream that ends before its response ends with an `error`.",
    (*EVENTS, ("queued", Queued)),
)
EXAMPLE = {"input": "How long is the wait at the town hall?", "max_output_tokens": 64}
ITSELF = r"/v1/responses/{response_id:(?!(?:input_tokens|compact)$)[^/]+}"
"""`input_tokens` is no id: its route says what other methods are for. Nor is OpenAI's `compact`, which is not there."""
ONE = (ResponseNotFound, ResponsesUnavailable, StoreUnavailable)

ROUTES = [
    Route(
        method="POST",
        path="/v1/responses",
        handler=handlers.create,
        batch=handlers.LINES,
        tag=TAG,
        summary="Create a response",
        description="OpenAI's fields and hosted tools that are not supported are refused by name.",
        body=ResponsesRequest,
        asks=Operation.CHAT,
        example=EXAMPLE,
        headers=(IDEMPOTENCY_KEY, RESUMABLE),
        responses=(
            ResponseSpec(
                200,
                "The response; a stream with `stream: true`; with `background: true` it is queued.",
                ResponseObject,
                STREAM,
                (QUEUE_MS, EVENTS_URL, *RATE_LIMITS),
            ),
        ),
        errors=(
            *NOT_ACCEPTED,
            *NOT_ANSWERED,
            TooManyStreams,
            RequestCancelled,
            RequestExpired,
            PayloadTooLarge,
            ResponsesUnavailable,
        ),
    ),
    Route(
        method="POST",
        path="/v1/responses/input_tokens",
        handler=handlers.input_tokens,
        tag=TAG,
        summary="Count the tokens of an input",
        description="It waits its turn in the queue.",
        body=InputTokensRequest,
        asks=Operation.CHAT,
        example={"input": EXAMPLE["input"]},
        headers=(IDEMPOTENCY_KEY,),
        responses=(ResponseSpec(200, "The count.", InputTokens, headers=RATE_LIMITS),),
        errors=(
            *NOT_ACCEPTED,
            *NOT_ANSWERED,
            TooManyStreams,
            RequestCancelled,
            RequestExpired,
            ResponsesUnavailable,
        ),
    ),
    Route(
        method="GET",
        path=ITSELF,
        handler=handlers.retrieve,
        tag=TAG,
        summary="See a response, or stream its events",
        query=ResponseQuery,
        responses=(
            ResponseSpec(
                200, "As it stands; with `stream=true` its events.", ResponseObject, STREAM
            ),
        ),
        errors=(*ONE, InvalidRequest, LogRewound, TooManyStreams),
    ),
    Route(
        method="DELETE",
        path=ITSELF,
        handler=handlers.delete,
        tag=TAG,
        summary="Delete a response",
        description="One that runs is cancelled.",
        responses=(ResponseSpec(200, "It is gone.", DeletedResponse),),
        errors=ONE,
    ),
    Route(
        method="POST",
        path="/v1/responses/{response_id}/cancel",
        handler=handlers.cancel,
        tag=TAG,
        summary="Cancel a response that runs in the background",
        responses=(
            ResponseSpec(200, "As it stands; one that has ended stays as it is.", ResponseObject),
        ),
        errors=(*ONE, InvalidRequest),
    ),
    Route(
        method="GET",
        path="/v1/responses/{response_id}/input_items",
        handler=handlers.input_items,
        tag=TAG,
        summary="List what a response was asked with",
        query=ItemsQuery,
        responses=(ResponseSpec(200, "A page of items.", ItemList),),
        errors=(*ONE, InvalidRequest),
    ),
]
