"""All errors of Relais, one class each. The class docstring says when it is raised.

An error carries only what a client may see: the four fields of an OpenAI error object
(`message`, `type`, `param`, `code`), the HTTP status that goes with them, and how long to wait before
a retry. It never contains tracebacks, keys or other tenants' data.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from relais_common.jobs.limits import Buckets, Quota


@dataclass(frozen=True, slots=True)
class ErrorInfo:
    """The description of a failure for clients.

    Attributes:
        message: one sentence for a person.
        type: OpenAI's error family (`invalid_request_error`, `server_error`, ...).
        param: the invalid request field, as a dotted path, or None.
        code: a stable identifier for programs.
        status: the HTTP status that goes with it.
    """

    message: str
    type: str = "server_error"
    param: str | None = None
    code: str | None = None
    status: int = 500


class RelaisError(Exception):
    """Base class of all errors that clients may see."""

    status = 500
    type = "server_error"
    code: str | None = "internal_error"

    def __init__(
        self, message: str, *, param: str | None = None, retry_after_s: float | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after_s = retry_after_s

    @property
    def info(self) -> ErrorInfo:
        """Return the error in the form of events and responses."""
        return ErrorInfo(self.message, self.type, self.param, self.code, self.status)


class InvalidRequest(RelaisError):
    """The request itself is wrong: a field is missing, unknown, of the wrong type or out of bounds."""

    status = 400
    type = "invalid_request_error"
    code = "invalid_value"

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message, param=param)
        if code is not None:
            self.code = code


class Unauthorized(RelaisError):
    """No key, or an unknown key."""

    status = 401
    type = "authentication_error"
    code = "invalid_api_key"


class KeyRevoked(Unauthorized):
    """The key was valid when the stream began, and no longer is."""

    code = "key_revoked"


class Forbidden(RelaisError):
    """The key lacks the right that the route requires."""

    status = 403
    type = "permission_error"
    code = "admin_required"


class StructureForbidden(Forbidden):
    """The key may not use this kind of structured output."""

    code = "structured_output_not_allowed"


class PriorityForbidden(Forbidden):
    """The key may not request such a high priority."""

    code = "priority_not_allowed"


class NotFound(RelaisError):
    """No such route."""

    status = 404
    type = "invalid_request_error"
    code = "not_found"


class ModelNotFound(NotFound):
    """The deployment does not declare this model, or the key may not use it."""

    code = "model_not_found"


class ChannelNotFound(NotFound):
    """The channel never existed, has expired, or belongs to another key."""

    code = "channel_not_found"


class VectorsNotFound(NotFound):
    """The request has not completed, was not for vectors, or its result has expired."""

    code = "vectors_not_found"


class MethodNotAllowed(RelaisError):
    """The path exists, but not with this method."""

    status = 405
    type = "invalid_request_error"
    code = "method_not_allowed"


class FileNotKnown(NotFound):
    """The file never existed, was deleted, has expired, or belongs to another key."""

    code = "file_not_found"


class BatchNotFound(NotFound):
    """The batch never existed, has expired, or belongs to another key."""

    code = "batch_not_found"


class ResponseNotFound(NotFound):
    """The response never existed, was deleted, has expired, or belongs to another key."""

    code = "response_not_found"


class FileInUse(RelaisError):
    """The file is the input of a batch that has not ended."""

    status = 409
    type = "invalid_request_error"
    code = "file_in_use"


class BatchEnded(RelaisError):
    """The batch has ended, so it cannot be cancelled."""

    status = 409
    type = "invalid_request_error"
    code = "batch_ended"


class DeadLetterNotFound(NotFound):
    """The channel is not a dead letter, or no longer."""

    code = "dead_letter_not_found"


class LogRewound(RelaisError):
    """The client has seen events that the log lacks: Redis came back with an older log."""

    status = 409
    type = "invalid_request_error"
    code = "log_rewound"


class IdempotencyConflict(RelaisError):
    """An `Idempotency-Key` was reused with a different body."""

    status = 409
    type = "invalid_request_error"
    code = "idempotency_key_reused"


class RequestTimeout(RelaisError):
    """The body did not arrive in time; the connection is closed."""

    status = 408
    type = "invalid_request_error"
    code = "request_timeout"


class PayloadTooLarge(RelaisError):
    """The body exceeds a size limit."""

    status = 413
    type = "invalid_request_error"
    code = "request_too_large"


class FileTooLarge(PayloadTooLarge):
    """The file exceeds `MAX_FILE_BYTES`."""

    code = "file_too_large"


class RangeNotSatisfiable(RelaisError):
    """The file has no such range of bytes."""

    status = 416
    type = "invalid_request_error"
    code = "range_not_satisfiable"


class UnsupportedMediaType(RelaisError):
    """The body is not declared as what the route takes, or is compressed."""

    status = 415
    type = "invalid_request_error"
    code = "unsupported_media_type"


class QueueFull(RelaisError):
    """The model's queue is at its bound."""

    status = 429
    type = "rate_limit_error"
    code = "queue_full"


class TooManyInFlight(RelaisError):
    """The key is at its limit of unfinished requests to this model."""

    status = 429
    type = "rate_limit_error"
    code = "too_many_in_flight"


class RateLimited(RelaisError):
    """The key has used up this minute's requests or tokens of this model."""

    status = 429
    type = "rate_limit_error"
    code = "rate_limit_exceeded"

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        retry_after_s: float | None = None,
        buckets: Buckets | None = None,
    ) -> None:
        super().__init__(message, param=param, retry_after_s=retry_after_s)
        self.buckets = buckets


class TooManyStreams(RelaisError):
    """The key is at its limit of open streams at this server."""

    status = 429
    type = "rate_limit_error"
    code = "too_many_streams"


class FileStorageFull(RelaisError):
    """The key's files take all that they may; no wait helps, but a deletion does."""

    status = 429
    type = "rate_limit_error"
    code = "file_storage_full"


class TooManyBatches(RelaisError):
    """The key is at its limit of batches that have not ended."""

    status = 429
    type = "rate_limit_error"
    code = "too_many_batches"


class TooManyBytes(RelaisError):
    """The key is at its limit of bytes in bodies being read and answers being sent at this server."""

    status = 429
    type = "rate_limit_error"
    code = "too_many_bytes"


class ServerBusy(RelaisError):
    """This server is at its limit of bytes in bodies and answers; another one may have room."""

    status = 503
    code = "server_busy"


class TooManyTrials(RelaisError):
    """Too many structured outputs of the key wait for a trial at one worker."""

    status = 429
    type = "rate_limit_error"
    code = "too_many_structured_outputs"


class TokensOverLimit(InvalidRequest):
    """The request may need more tokens than its key has in a minute, so it could never run."""

    code = "tokens_over_limit"


def over_quota(
    quota: Quota, now: Buckets, model: str, *, is_line: bool = False, day_full_s: float = 0.0
) -> RelaisError:
    """Says why a request does not fit: for ever (TokensOverLimit), or for now (RateLimited).

    Args:
        is_line: whether it is a line of a batch, which is refused while half of a minute's tokens are used.
        day_full_s: until the key's next day begins, if its tokens do not fit in this one.
    """
    most = quota.tokens_per_minute
    for limit, span in ((most, "minute"), (quota.tokens_per_day, "day")):
        if limit is not None and quota.tokens > limit:
            return TokensOverLimit(
                f"this request may need {quota.tokens} tokens, and this key has {limit} a {span} of {model!r}: ask for "
                "less",
                param="max_tokens",
            )
    if day_full_s > 0:
        return RateLimited(
            f"this key has {quota.tokens_per_day} tokens a day of {model!r} (this request may need {quota.tokens}): "
            "try again after midnight, UTC",
            retry_after_s=day_full_s,
            buckets=now,
        )
    wait_s = now.wait_s(quota.tokens)
    half_wait_s = 0.0 if now.tokens is None else now.tokens.wait_s(now.tokens.per_minute / 2)
    if is_line and half_wait_s >= wait_s:
        return RateLimited(
            f"this key has {most} tokens a minute of {model!r}, and lines of batches leave half of them to other "
            "requests: try again later",
            retry_after_s=half_wait_s,
            buckets=now,
        )
    short = []
    if now.requests is not None and now.requests.wait_s(1) > 0:
        short.append(f"{quota.requests_per_minute} requests")
    if now.tokens is not None and now.tokens.wait_s(quota.tokens) > 0:
        short.append(f"{most} tokens (this request may need {quota.tokens})")
    return RateLimited(
        f"this key has {' and '.join(short)} a minute of {model!r}: try again later",
        retry_after_s=wait_s,
        buckets=now,
    )


class StorageFull(RelaisError):
    """Redis holds as much for this model as its bound allows; nothing was queued."""

    status = 503
    code = "storage_full"


class KeyStorageFull(RelaisError):
    """Redis holds more for this key's requests to the model, and their answers, than the key's share."""

    status = 429
    type = "rate_limit_error"
    code = "key_storage_full"


class TracesFull(RelaisError):
    """Too many traces of this model wait for the database; nothing was queued, because its trace could be lost."""

    status = 503
    code = "traces_full"


def storage_full(model: str, stored: int, *, retry_after_s: float) -> StorageFull:
    """Return the error, which says how much is stored for the model."""
    return StorageFull(
        f"{stored} bytes are held of requests to {model!r} and of their answers already",
        retry_after_s=retry_after_s,
    )


def key_storage_full(model: str, stored: int, *, retry_after_s: float) -> KeyStorageFull:
    """Return the error, which says how much is stored for the key's requests to the model."""
    return KeyStorageFull(
        f"{stored} bytes are held of this key's requests to {model!r} and of their answers, "
        "which is more than its share: try again when some have expired",
        retry_after_s=retry_after_s,
    )


class EngineRefused(InvalidRequest):
    """The engine refused the request before it began: too long, bad schema, unknown token."""


def images_refused(model: str, param: str) -> EngineRefused:
    """Return the error for an image that a text-only model was sent."""
    return EngineRefused(
        f"{param}: the model {model!r} takes no images", param=param, code="unsupported_value"
    )


class UpstreamRefused(EngineRefused):
    """The server that runs the model refused this request; the status is that server's."""

    code = "upstream_refused"

    def __init__(
        self, message: str, *, status: int, param: str | None = None, code: str | None = None
    ) -> None:
        super().__init__(message, param=param, code=code)
        self.status = status
        if status == 403:
            self.type = "permission_error"


class NotResumable(RelaisError):
    """A stream was interrupted after its first token and cannot continue exactly where it stopped."""

    code = "not_resumable"


class WorkerLost(RelaisError):
    """Workers kept dying while they ran this request alone; it is set aside."""

    code = "worker_lost"


class Unreadable(RelaisError):
    """The worker's version cannot read the queued request; upgrade workers before orchestrators."""

    code = "unreadable_request"


class ImageLost(RelaisError):
    """An image of the queued request is gone from Redis, which its request outlived."""

    code = "image_lost"


class EngineFailed(RelaisError):
    """The engine failed on this request, but keeps running."""

    code = "engine_error"


class UpstreamMisconfigured(RelaisError):
    """The server that runs the model does not accept this deployment's key, account or address, or lacks the model."""

    status = 502
    code = "upstream_misconfigured"


class UpstreamUnavailable(RelaisError):
    """The server that runs the model was too busy for this request at every try."""

    status = 503
    code = "upstream_unavailable"


class UpstreamRateLimited(RelaisError):
    """The server that runs the model limits this deployment, which shares the limit among all clients."""

    status = 503
    code = "upstream_rate_limited"


class EngineStalled(RelaisError):
    """The engine made no step while it ran this request, and was restarted."""

    code = "engine_stalled"


class RequestCancelled(RelaisError):
    """The request was cancelled while its client waited for it."""

    status = 409
    type = "invalid_request_error"
    code = "cancelled"


class RequestExpired(RelaisError):
    """The request's deadline passed."""

    status = 504
    type = "timeout_error"
    code = "expired"


class InternalError(RelaisError):
    """A fault of ours; the logs say more."""


class EndedOtherwise(RelaisError):
    """The request did not complete; carries the error of its terminal event."""

    def __init__(self, info: ErrorInfo) -> None:
        super().__init__(info.message, param=info.param)
        self.status, self.type, self.code = info.status, info.type, info.code


class StoreUnavailable(RelaisError):
    """Redis does not answer. The call may still take effect, so only a retry with an idempotency key is safe."""

    status = 503
    code = "store_unavailable"


class NotConfirmed(StoreUnavailable):
    """The request was stored, but not confirmed as `ACCEPT_WAIT_*` requires. Only its idempotency key finds it."""

    code = "not_confirmed"


class KpisUnavailable(RelaisError):
    """No database of traces is configured, or it does not answer."""

    status = 503
    code = "kpis_unavailable"


class ResponsesUnavailable(RelaisError):
    """The database of responses does not answer, and Redis does not have the response any more."""

    status = 503
    code = "responses_unavailable"


class FilesUnavailable(RelaisError):
    """No database of files and batches is configured, or it does not answer."""

    status = 503
    code = "files_unavailable"


class Draining(RelaisError):
    """This process is shutting down; another one takes requests."""

    status = 503
    code = "draining"


class DecodeError(Exception):
    """Bytes from Redis have a form that this version of Relais does not write. Never shown to clients."""


class EngineDead(Exception):
    """The engine's process has died. The worker hands its leases back and exits with a failure."""


class EngineStuck(EngineDead):
    """The engine makes no step while it has requests. It is handled like one that died.

    Attributes:
        channel_ids: the suspected requests: the cause, or several of which one may be.
    """

    def __init__(self, channel_ids: Collection[str]) -> None:
        super().__init__("the engine makes no step")
        self.channel_ids = frozenset(channel_ids)


class SettingsError(Exception):
    """A setting is missing or invalid; the message names it."""
