"""Headers and errors that several routes share."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from relais_common.jobs.errors import (
    Draining,
    EngineFailed,
    EngineRefused,
    IdempotencyConflict,
    ImageLost,
    KeyRevoked,
    KeyStorageFull,
    ModelNotFound,
    NotConfirmed,
    NotResumable,
    PriorityForbidden,
    QueueFull,
    RateLimited,
    StorageFull,
    StoreUnavailable,
    TokensOverLimit,
    TooManyInFlight,
    TracesFull,
    Unreadable,
    UpstreamMisconfigured,
    UpstreamRateLimited,
    UpstreamRefused,
    UpstreamUnavailable,
    WorkerLost,
)
from relais_orchestrator.api import answering, channel_streams
from relais_orchestrator.api.route import Header
from relais_orchestrator.submission.submitter import IDEMPOTENCY_KEY_FORM

IDEMPOTENCY_KEY = Header(
    "Idempotency-Key",
    Annotated[str, StringConstraints(pattern=IDEMPOTENCY_KEY_FORM)],
    "The same key with the same body finds the first request again, and queues nothing.",
)
QUEUE_MS = Header(
    answering.QUEUE_MS,
    Annotated[int, Field(ge=0)],
    "Milliseconds between acceptance and the engine's start. Missing from a stream that had to begin before it.",
)
STREAM = Header(
    channel_streams.STREAM,
    Literal["resumable"],
    "With `stream: true`: frames have ids, and `queued` events tell the position of a request that waits. Headers "
    "leave at once. Where the connection breaks, the stream goes on at the URL of `X-Relais-Events-Url` with "
    "`Last-Event-ID`, at any server.",
)
EVENTS_URL = Header(
    channel_streams.EVENTS_URL,
    str,
    "Where a resumable stream goes on, with a signed token that does for a key.",
)
NOT_ACCEPTED = (
    ModelNotFound,
    PriorityForbidden,
    IdempotencyConflict,
    QueueFull,
    StorageFull,
    KeyStorageFull,
    TracesFull,
    TooManyInFlight,
    RateLimited,
    TokensOverLimit,
    StoreUnavailable,
    NotConfirmed,
    Draining,
)
"""Errors for a request that is not queued."""

NOT_ANSWERED = (
    *(KeyRevoked, EngineRefused, EngineFailed, NotResumable, WorkerLost, Unreadable, ImageLost),
    *(UpstreamRefused, UpstreamMisconfigured, UpstreamRateLimited, UpstreamUnavailable),
)
"""Errors for an accepted request that did not complete."""
