"""OpenAI's routes, over the same queue."""

from __future__ import annotations

from relais_common.jobs.errors import (
    RequestCancelled,
    RequestExpired,
    TooManyStreams,
)
from relais_common.jobs.events import Queued
from relais_common.jobs.job import Operation
from relais_orchestrator.api.docs.rate_limits import RATE_LIMITS
from relais_orchestrator.api.openai import handlers
from relais_orchestrator.api.openai.objects import (
    EVENTS,
    ChatCompletion,
    TextCompletion,
    TextCompletionChunk,
)
from relais_orchestrator.api.openai.schemas import ChatCompletionRequest, CompletionRequest
from relais_orchestrator.api.route import Events, ResponseSpec, Route
from relais_orchestrator.api.shared import (
    EVENTS_URL,
    IDEMPOTENCY_KEY,
    NOT_ACCEPTED,
    NOT_ANSWERED,
    QUEUE_MS,
    STREAM,
)
from relais_orchestrator.http.errors import ErrorResponse

TAG = "OpenAI"
CHUNKS = (
    "Chunks, then `[DONE]`. Headers leave when the engine has accepted the request. What fails after that is a "
    "last chunk with an `error`, and no `[DONE]`."
)
ERRORS = (*NOT_ACCEPTED, *NOT_ANSWERED, TooManyStreams, RequestCancelled, RequestExpired)

ROUTES = [
    Route(
        method="POST",
        path="/v1/chat/completions",
        handler=handlers.chat_completions,
        asks=Operation.CHAT,
        batch=handlers.CHAT_LINES,
        tag=TAG,
        summary="Answer a chat",
        description="OpenAI's fields that are not supported are refused by name.",
        body=ChatCompletionRequest,
        example={
            "messages": [{"role": "user", "content": "How long is the wait at the town hall?"}],
            "max_completion_tokens": 64,
        },
        headers=(IDEMPOTENCY_KEY, STREAM),
        responses=(
            ResponseSpec(
                200,
                "The answer; a stream with `stream: true`.",
                ChatCompletion,
                Events(
                    CHUNKS,
                    (*EVENTS, ("queued", Queued)),
                    last_data="[DONE]",
                ),
                (QUEUE_MS, EVENTS_URL, *RATE_LIMITS),
            ),
        ),
        errors=ERRORS,
    ),
    Route(
        method="POST",
        path="/v1/completions",
        handler=handlers.completions,
        asks=Operation.CHAT,
        batch=handlers.COMPLETION_LINES,
        tag=TAG,
        summary="Continue a text",
        description="OpenAI's fields that are not supported are refused by name.",
        body=CompletionRequest,
        example={"prompt": "The waiting time at the town hall is", "max_tokens": 32},
        headers=(IDEMPOTENCY_KEY,),
        responses=(
            ResponseSpec(
                200,
                "The text; a stream with `stream: true`.",
                TextCompletion,
                Events(
                    CHUNKS,
                    (("message", TextCompletionChunk), ("message", ErrorResponse)),
                    last_data="[DONE]",
                ),
                (QUEUE_MS, *RATE_LIMITS),
            ),
        ),
        errors=ERRORS,
    ),
]
