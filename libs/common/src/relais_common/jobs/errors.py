"""Every error of Relais, one class each. The class docstring says when it is raised.

An error carries what a client may see, and nothing else: the four fields of an OpenAI error object
(`message`, `type`, `param`, `code`), the HTTP status that goes with them, and how long to wait before
another try. Tracebacks, keys and other tenants' data never enter one.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from relais_common.jobs.limits import Buckets


@dataclass(frozen=True, slots=True)
class ErrorInfo:
    """What a client is told of a failure.

    Attributes:
        message: one sentence for a person.
        type: OpenAI's error family (`invalid_request_error`, `server_error`, ...).
        param: the request field at fault, as a dotted path, or None.
        code: a stable word for programs.
        status: the HTTP status that goes with it.
    """

    message: str
    type: str = "server_error"
    param: str | None = None
    code: str | None = None
    status: int = 500


class RelaisError(Exception):
    """Base of every error that a client may be told about."""

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
    """No key, or a key that is not known."""

    status = 401
    type = "authentication_error"
    code = "invalid_api_key"


class KeyRevoked(Unauthorized):
    """The key was good when the stream began, and is no longer."""

    code = "key_revoked"


class Forbidden(RelaisError):
    """A known key, without the right that the route asks for."""

    status = 403
    type = "permission_error"
    code = "admin_required"


class StructureForbidden(Forbidden):
    """The key may not ask for this kind of structured output."""

    code = "structured_output_not_allowed"


class PriorityForbidden(Forbidden):
    """The key may not ask for so high a priority."""

    code = "priority_not_allowed"


class NotFound(RelaisError):
    """No such route."""

    status = 404
    type = "invalid_request_error"
    code = "not_found"


class ModelNotFound(NotFound):
    """The model is not among those that this deployment declares, or that the key may use."""

    code = "model_not_found"


class ChannelNotFound(NotFound):
    """The channel never existed, is gone, or belongs to another key."""

    code = "channel_not_found"


class VectorsNotFound(NotFound):
    """The request has not completed, was not for vectors, or its result has expired."""

    code = "vectors_not_found"


class MethodNotAllowed(RelaisError):
    """The path exists, but not with this method."""

    status = 405
    type = "invalid_request_error"
    code = "method_not_allowed"


class DeadLetterNotFound(NotFound):
    """The channel is no dead letter, or none any more."""

    code = "dead_letter_not_found"


class LogRewound(RelaisError):
    """The client has seen events that the log does not have: Redis came back with an older log."""

    status = 409
    type = "invalid_request_error"
    code = "log_rewound"


class IdempotencyConflict(RelaisError):
    """An `Idempotency-Key` came again with another body."""

    status = 409
    type = "invalid_request_error"
    code = "idempotency_key_reused"


class RequestTimeout(RelaisError):
    """The body did not come in time; the connection is closed."""

    status = 408
    type = "invalid_request_error"
    code = "request_timeout"


class PayloadTooLarge(RelaisError):
    """The body is over the bound that holds at the door."""

    status = 413
    type = "invalid_request_error"
    code = "request_too_large"


class UnsupportedMediaType(RelaisError):
    """The body is not declared as JSON, or is compressed."""

    status = 415
    type = "invalid_request_error"
    code = "unsupported_media_type"


class QueueFull(RelaisError):
    """The model's queue is at its bound."""

    status = 429
    type = "rate_limit_error"
    code = "queue_full"


class TooManyInFlight(RelaisError):
    """The key has as many unfinished requests to this model as it may have."""

    status = 429
    type = "rate_limit_error"
    code = "too_many_in_flight"


class RateLimited(RelaisError):
    """The key has used up its requests or tokens of this minute, of this model."""

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
    """The key has as many open streams at this server as it may have."""

    status = 429
    type = "rate_limit_error"
    code = "too_many_streams"


class TooManyBytes(RelaisError):
    """The key's bodies that are being read and its answers that wait to be read are as large as they may be, here."""

    status = 429
    type = "rate_limit_error"
    code = "too_many_bytes"


class ServerBusy(RelaisError):
    """This server holds as many bytes of bodies and answers as it may; another one may have room."""

    status = 503
    code = "server_busy"


class TooManyTrials(RelaisError):
    """Too many structured outputs of the key wait to be tried out at one worker."""

    status = 429
    type = "rate_limit_error"
    code = "too_many_structured_outputs"


class TokensOverLimit(InvalidRequest):
    """The request may need more tokens than its key has in a minute: it would never pass."""

    code = "tokens_over_limit"


class StorageFull(RelaisError):
    """What Redis holds of this model is at its bound: nothing was queued."""

    status = 503
    code = "storage_full"


class KeyStorageFull(RelaisError):
    """What Redis holds of this key's requests to the model and of their answers is more than its share."""

    status = 429
    type = "rate_limit_error"
    code = "key_storage_full"


class TracesFull(RelaisError):
    """As many traces of this model wait for the database as may: nothing was queued, since its trace could be lost."""

    status = 503
    code = "traces_full"


def storage_full(model: str, stored: int, *, retry_after_s: float) -> StorageFull:
    """Says how much is held of the model."""
    return StorageFull(
        f"{stored} bytes are held of requests to {model!r} and of their answers already",
        retry_after_s=retry_after_s,
    )


def key_storage_full(model: str, stored: int, *, retry_after_s: float) -> KeyStorageFull:
    """Says how much is held of the key's requests to the model."""
    return KeyStorageFull(
        f"{stored} bytes are held of this key's requests to {model!r} and of their answers, "
        "which is more than its share: try again when some have expired",
        retry_after_s=retry_after_s,
    )


class EngineRefused(InvalidRequest):
    """The engine refused the request before any work: too long, bad schema, unknown token."""


class UpstreamRefused(EngineRefused):
    """The server that runs the model refused this request; the status is that server's."""

    code = "upstream_refused"

    def __init__(
        self, message: str, *, status: int, param: str | None = None, code: str | None = None
    ) -> None:
        super().__init__(message, param=param, code=code)
        self.status = status
        if status == 429:
            self.type = "rate_limit_error"
            self.code = code or "upstream_rate_limited"
        elif status == 403:
            self.type = "permission_error"


class NotResumable(RelaisError):
    """A stream was cut after its first token and cannot go on exactly where it stopped."""

    code = "not_resumable"


class WorkerLost(RelaisError):
    """Workers kept dying while they ran this request alone; it is set aside."""

    code = "worker_lost"


class Unreadable(RelaisError):
    """The queued request is not what this version of the worker reads; upgrade workers before orchestrators."""

    code = "unreadable_request"


class EngineFailed(RelaisError):
    """The engine failed while it ran this request, and lives on."""

    code = "engine_error"


class UpstreamMisconfigured(RelaisError):
    """The server that runs the model does not accept this deployment: its key, its account, or the server's address."""

    status = 502
    code = "upstream_misconfigured"


class UpstreamUnavailable(RelaisError):
    """The server that runs the model was too busy for this request, however often it was asked."""

    status = 503
    code = "upstream_unavailable"


class EngineStalled(RelaisError):
    """The engine made no step while it ran this request, and was restarted."""

    code = "engine_stalled"


class Cancelled(RelaisError):
    """The request was cancelled while its client waited for it."""

    status = 409
    type = "invalid_request_error"
    code = "cancelled"


class Expired(RelaisError):
    """The request's deadline passed."""

    status = 504
    type = "timeout_error"
    code = "expired"


class InternalError(RelaisError):
    """A fault of ours; the logs say more."""


class EndedOtherwise(RelaisError):
    """The request came to another end than its client waited for; carries that end's own words."""

    def __init__(self, info: ErrorInfo) -> None:
        super().__init__(info.message, param=info.param)
        self.status, self.type, self.code = info.status, info.type, info.code


class StoreUnavailable(RelaisError):
    """Redis does not answer. What was asked may still be carried out: only a repetition that says so is safe."""

    status = 503
    code = "store_unavailable"


class NotConfirmed(StoreUnavailable):
    """The request was stored, but not as safely as `ACCEPT_WAIT_*` asks. It may run; only its key finds it again."""

    code = "not_confirmed"


class KpisUnavailable(RelaisError):
    """No database of traces is configured, or it does not answer."""

    status = 503
    code = "kpis_unavailable"


class Draining(RelaisError):
    """This process is shutting down; another one takes requests."""

    status = 503
    code = "draining"


class DecodeError(Exception):
    """Bytes from Redis are not what this version of Relais writes. Never shown to a client."""


class EngineDead(Exception):
    """The engine's process is gone. The worker hands its leases back and exits non-zero."""


class EngineStuck(EngineDead):
    """The engine makes no step while it has requests; it is ended like one that died.

    Attributes:
        channel_ids: the requests that may be why: one that is, or several of which one may be.
    """

    def __init__(self, channel_ids: Collection[str]) -> None:
        super().__init__("the engine makes no step")
        self.channel_ids = frozenset(channel_ids)


class SettingsError(Exception):
    """A setting is missing or wrong; the message names it."""
