"""Declarations of the native routes, in which a request outlives its connection."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import StringConstraints

from relais_common.jobs.errors import (
    ChannelNotFound,
    InvalidRequest,
    KeyRevoked,
    LogRewound,
    StoreUnavailable,
    TooManyStreams,
    VectorsNotFound,
)
from relais_common.jobs.events import Completed, Event, Prompt, Token
from relais_common.jobs.job import Operation
from relais_common.queue.codec import NAMES
from relais_orchestrator.api.channel_streams import StreamName
from relais_orchestrator.api.docs.rate_limits import RATE_LIMITS
from relais_orchestrator.api.messages import objects as messages_objects
from relais_orchestrator.api.native import events
from relais_orchestrator.api.native import handlers as native
from relais_orchestrator.api.native.answers import (
    AcceptedResponse,
    ChannelResponse,
    CompletedEvent,
    PromptEvent,
    TokenEvent,
    VectorsResponse,
)
from relais_orchestrator.api.native.schemas import SubmitRequest
from relais_orchestrator.api.openai import objects as openai_objects
from relais_orchestrator.api.responses import objects as responses_objects
from relais_orchestrator.api.route import Access, Events, Header, Query, ResponseSpec, Route
from relais_orchestrator.api.shared import IDEMPOTENCY_KEY, NOT_ACCEPTED
from relais_orchestrator.http.errors import ErrorResponse

TAG = "Requests"
_DATA: dict[type[Event], Any] = {Prompt: PromptEvent, Token: TokenEvent, Completed: CompletedEvent}
EventId = Annotated[str, StringConstraints(pattern=events.EVENT_ID_FORM)]
LINKS = {
    "get_channels_channel_id": "channel_id",
    "get_channels_channel_id_events": "channel_id",
    "delete_channels_channel_id": "channel_id",
}

ROUTES = [
    Route(
        method="POST",
        path="/v1/requests",
        handler=native.submit,
        asks=Operation.CHAT,
        tag=TAG,
        summary="Put a request in the queue",
        description="Answers once the request is accepted; it goes on whoever leaves. Its events are at `events_url`.",
        body=SubmitRequest,
        example={
            "messages": [{"role": "user", "content": "How long is the wait at the town hall?"}],
            "params": {"max_tokens": 64},
        },
        headers=(IDEMPOTENCY_KEY,),
        responses=(
            ResponseSpec(
                202,
                "Accepted.",
                AcceptedResponse,
                headers=(Header("Location", str, "Where the request's state is."), *RATE_LIMITS),
            ),
        ),
        errors=NOT_ACCEPTED,
        links=LINKS,
    ),
    Route(
        method="GET",
        path="/v1/channels/{channel_id}",
        handler=native.show,
        tag=TAG,
        summary="See where a request stands, and its result",
        responses=(ResponseSpec(200, "Its state.", ChannelResponse),),
        errors=(ChannelNotFound, StoreUnavailable),
    ),
    Route(
        method="GET",
        path="/v1/channels/{channel_id}/vectors",
        handler=native.vectors,
        tag=TAG,
        summary="Read a completed request's vectors",
        description="Packed little-endian float32 where `Accept` names `application/octet-stream`.",
        responses=(
            ResponseSpec(
                200,
                "The vectors, in the order of the inputs.",
                VectorsResponse,
                binary="application/octet-stream",
            ),
        ),
        errors=(ChannelNotFound, VectorsNotFound, StoreUnavailable),
    ),
    Route(
        method="DELETE",
        path="/v1/channels/{channel_id}",
        handler=native.cancel,
        tag=TAG,
        summary="Cancel a request",
        description="Its state can be read afterwards as before.",
        responses=(
            ResponseSpec(200, "It has ended; before this call, or by it.", ChannelResponse),
            ResponseSpec(202, "Its worker has been asked to stop.", ChannelResponse),
        ),
        errors=(ChannelNotFound, StoreUnavailable),
    ),
    Route(
        method="GET",
        path="/v1/channels/{channel_id}/events",
        handler=events.stream_events,
        tag=TAG,
        summary="Follow a request's events",
        description="From the first event, or from the one after `Last-Event-ID`; any server serves any channel.",
        access=Access.KEY_OR_EVENTS_URL,
        headers=(Header("Last-Event-ID", EventId, "The last event that the client has."),),
        query=(
            Query(
                "last_event_id",
                EventId,
                "Likewise, for an EventSource that begins in the middle; the header goes before it.",
            ),
            Query(
                "format",
                StreamName,
                "`native`, as described here; or the chunks of OpenAI's chats, the events of Anthropic's messages or "
                "those of OpenAI's responses, with ids that mean the same at every server.",
            ),
            *(
                Query(
                    name, Literal["true", "false"], "With `format=openai`: as in `stream_options`."
                )
                for name in events.OPTIONS
            ),
        ),
        responses=(
            ResponseSpec(
                200,
                "The events, until the request has ended or the server stops.",
                events=Events(
                    "Each event has an id: 1, 2, 3, ... `queued` comes again, without an id, while the request "
                    "waits. One of `completed`, `failed`, `cancelled`, `expired` is the last; where the log is gone "
                    "it comes alone, with the whole `text`. `log_rewound` (begin again) and "
                    "`key_revoked` have no id.",
                    (
                        *((name.decode(), _DATA.get(kind, kind)) for kind, name in NAMES.items()),
                        ("log_rewound", ErrorResponse),
                        ("key_revoked", ErrorResponse),
                        *openai_objects.EVENTS,
                        ("message", openai_objects.TextCompletionChunk),
                        *messages_objects.EVENTS,
                        *responses_objects.EVENTS,
                    ),
                    last_data="[DONE]",
                ),
            ),
            ResponseSpec(204, "There is nothing after this id, and nothing will come."),
        ),
        errors=(
            KeyRevoked,
            ChannelNotFound,
            LogRewound,
            InvalidRequest,
            TooManyStreams,
            StoreUnavailable,
        ),
    ),
]
