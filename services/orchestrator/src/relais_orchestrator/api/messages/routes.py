"""Declarations of the routes of Anthropic's Messages API."""

from __future__ import annotations

from relais_common.jobs.errors import RequestCancelled, RequestExpired, TooManyStreams
from relais_common.jobs.events import Queued
from relais_common.jobs.job import Operation
from relais_orchestrator.api.docs.rate_limits import RATE_LIMITS
from relais_orchestrator.api.messages import handlers
from relais_orchestrator.api.messages.objects import (
    EVENTS,
    ErrorEnvelope,
    MessageObject,
    TokenCount,
)
from relais_orchestrator.api.messages.schemas import CountTokensRequest, MessagesRequest
from relais_orchestrator.api.route import Events, ResponseSpec, Route
from relais_orchestrator.api.shared import (
    EVENTS_URL,
    IDEMPOTENCY_KEY,
    NOT_ACCEPTED,
    NOT_ANSWERED,
    QUEUE_MS,
    STREAM,
)

TAG = "Anthropic"
ERRORS = (*NOT_ACCEPTED, *NOT_ANSWERED, RequestCancelled, RequestExpired)
_HELLO = {"role": "user", "content": "How long is the wait at the town hall?"}

ROUTES = [
    Route(
        method="POST",
        path="/v1/messages",
        handler=handlers.create_message,
        asks=Operation.CHAT,
        tag=TAG,
        summary="Answer a conversation",
        description="Anthropic's fields that are not supported are refused by name. Its headers have no effect.",
        body=MessagesRequest,
        error=ErrorEnvelope,
        example={"max_tokens": 64, "messages": [_HELLO]},
        headers=(IDEMPOTENCY_KEY, STREAM),
        responses=(
            ResponseSpec(
                200,
                "The answer; a stream with `stream: true`.",
                MessageObject,
                Events(
                    "Anthropic's events in their order. Headers leave when the engine has accepted the request; what "
                    "fails after that is an `error`, and the last event.",
                    (*EVENTS, ("queued", Queued)),
                ),
                (QUEUE_MS, EVENTS_URL, *RATE_LIMITS),
            ),
        ),
        errors=(*ERRORS, TooManyStreams),
    ),
    Route(
        method="POST",
        path="/v1/messages/count_tokens",
        handler=handlers.count_tokens,
        asks=Operation.CHAT,
        tag=TAG,
        summary="Count the tokens of a conversation's prompt",
        description="It waits in the queue as any request does, and counts no tokens against limits.",
        body=CountTokensRequest,
        error=ErrorEnvelope,
        example={"messages": [_HELLO]},
        headers=(IDEMPOTENCY_KEY,),
        responses=(ResponseSpec(200, "The number, with the chat template.", TokenCount),),
        errors=(*ERRORS, TooManyStreams),
    ),
]
