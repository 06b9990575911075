"""Body, query string and responses of `/v1/batches`, in OpenAI's names."""

from __future__ import annotations

import time
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, with_config
from typing_extensions import TypedDict

from relais_orchestrator.api.files.schemas import ExpiresAfter
from relais_orchestrator.api.schemas.closed import CLOSED
from relais_orchestrator.batches.store import ACTIVE, Document

MAX_PAGE = 100
MAX_WINDOW_HOURS = 168
BatchStatus = Literal[
    "validating",
    "failed",
    "in_progress",
    "finalizing",
    "completed",
    "expired",
    "cancelling",
    "cancelled",
]


class BatchRequest(BaseModel):
    """`POST /v1/batches`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    input_file_id: Annotated[str, StringConstraints(min_length=1, max_length=64)]
    endpoint: Annotated[str, StringConstraints(min_length=1, max_length=64)] = Field(
        description="The path of the route that all requests of the batch are for."
    )
    completion_window: Annotated[str, StringConstraints(pattern=r"^[1-9][0-9]{0,2}h$")] = Field(
        description=f"`24h`, as OpenAI has it, or another number of hours up to {MAX_WINDOW_HOURS}."
    )
    metadata: (
        Annotated[
            dict[
                Annotated[str, StringConstraints(max_length=64)],
                Annotated[str, StringConstraints(max_length=512)],
            ],
            Field(max_length=16),
        ]
        | None
    ) = None
    output_expires_after: ExpiresAfter | None = Field(
        default=None, description="When the output and error files expire."
    )


class BatchesQuery(BaseModel):
    """Which batches to list."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    after: str | None = Field(
        default=None, min_length=1, max_length=64, description="The last batch of the page before."
    )
    limit: int = Field(default=20, ge=1, le=MAX_PAGE, description="Batches per page.")


@with_config(CLOSED)
class BatchError(TypedDict):
    code: str | None
    message: str
    param: str | None
    line: int | None


@with_config(CLOSED)
class BatchErrors(TypedDict):
    object: Literal["list"]
    data: list[BatchError]


@with_config(CLOSED)
class RequestCounts(TypedDict):
    total: int
    completed: int
    failed: int


@with_config(CLOSED)
class InputDetails(TypedDict):
    cached_tokens: int


@with_config(CLOSED)
class OutputDetails(TypedDict):
    reasoning_tokens: int


@with_config(CLOSED)
class BatchUsage(TypedDict):
    input_tokens: int
    input_tokens_details: InputDetails
    output_tokens: int
    output_tokens_details: OutputDetails
    total_tokens: int


@with_config(CLOSED)
class BatchProgress(TypedDict):
    """How far a batch is that has not ended.

    Attributes:
        position: batches of the same model that were created earlier and have not ended; null while it is validated.
        requests_per_s: of the last minute; null while nobody knows.
        estimated_end_at: when all requests will have ended at this rate, in Unix seconds.
    """

    position: int | None
    requests_per_s: float | None
    estimated_end_at: int | None


@with_config(CLOSED)
class BatchObject(TypedDict):
    id: str
    object: Literal["batch"]
    endpoint: str
    model: str | None
    errors: BatchErrors | None
    input_file_id: str
    completion_window: str
    status: BatchStatus
    output_file_id: str | None
    error_file_id: str | None
    created_at: int
    in_progress_at: int | None
    expires_at: int
    finalizing_at: int | None
    completed_at: int | None
    failed_at: int | None
    expired_at: int | None
    cancelling_at: int | None
    cancelled_at: int | None
    request_counts: RequestCounts
    progress: Annotated[BatchProgress | None, Field(description="Until the batch has ended.")]
    usage: Annotated[BatchUsage | None, Field(description="Once the batch has ended.")]
    metadata: dict[str, str] | None


class OpenBatchesQuery(BaseModel):
    """How many open batches to list."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    limit: int = Field(default=100, ge=1, le=1000)


@with_config(CLOSED)
class OpenBatch(BatchObject):
    """A batch as operators see it."""

    key_id: str


@with_config(CLOSED)
class OpenBatches(TypedDict):
    batches: list[OpenBatch]


@with_config(CLOSED)
class BatchList(TypedDict):
    object: Literal["list"]
    data: list[BatchObject]
    first_id: str | None
    last_id: str | None
    has_more: bool


def batch_object(batch: Document, position: int | None = None) -> BatchObject:
    """Return a batch as OpenAI's API shows it, and its progress.

    Args:
        position: of a batch that has not ended.
    """
    errors = batch.get("errors")
    return {
        "id": batch["_id"],
        "object": "batch",
        "endpoint": batch["endpoint"],
        "model": batch.get("model"),
        "errors": None if errors is None else {"object": "list", "data": errors},
        "input_file_id": batch["input_file_id"],
        "completion_window": batch["completion_window"],
        "status": batch["status"],
        "output_file_id": batch.get("output_file_id"),
        "error_file_id": batch.get("error_file_id"),
        "created_at": int(batch["created_at"].timestamp()),
        "in_progress_at": _seconds(batch.get("in_progress_at")),
        "expires_at": int(batch["expires_at"].timestamp()),
        "finalizing_at": _seconds(batch.get("finalizing_at")),
        "completed_at": _seconds(batch.get("completed_at")),
        "failed_at": _seconds(batch.get("failed_at")),
        "expired_at": _seconds(batch.get("expired_at")),
        "cancelling_at": _seconds(batch.get("cancelling_at")),
        "cancelled_at": _seconds(batch.get("cancelled_at")),
        "request_counts": batch["counts"],
        "progress": _progress(batch, position) if batch["status"] in ACTIVE else None,
        "usage": _usage(batch.get("usage")),
        "metadata": batch.get("metadata"),
    }


def _progress(batch: Document, position: int | None) -> BatchProgress:
    counts, now_s = batch["counts"], time.time()
    # A rate that nobody keeps up to date says nothing.
    lease = batch["lease"]
    is_fed = batch["status"] == "in_progress" and lease["holder"] and lease["until"] > now_s
    rate = batch.get("requests_per_s") if is_fed else None
    left = counts["total"] - counts["completed"] - counts["failed"]
    return {
        "position": position,
        "requests_per_s": None if rate is None else round(rate, 3),
        "estimated_end_at": int(now_s + left / rate) if rate else None,
    }


def _seconds(moment: datetime | None) -> int | None:
    return None if moment is None else int(moment.timestamp())


def _usage(usage: Any) -> BatchUsage | None:
    if usage is None:
        return None
    given, cached, made, reasoning = usage
    return {
        "input_tokens": given,
        "input_tokens_details": {"cached_tokens": cached},
        "output_tokens": made,
        "output_tokens_details": {"reasoning_tokens": reasoning},
        "total_tokens": given + made,
    }
