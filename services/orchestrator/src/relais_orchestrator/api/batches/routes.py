"""Declarations of the batches' routes."""

from __future__ import annotations

from typing import get_args

from relais_common.jobs.errors import (
    BatchEnded,
    BatchNotFound,
    FileNotKnown,
    FilesUnavailable,
    InvalidRequest,
    TooManyBatches,
    TooManyStreams,
)
from relais_orchestrator.api.admin.routes import TAG as OPERATORS
from relais_orchestrator.api.batches import handlers as batches
from relais_orchestrator.api.batches.events import stream_batch
from relais_orchestrator.api.batches.schemas import (
    BatchesQuery,
    BatchList,
    BatchObject,
    BatchRequest,
    BatchStatus,
    OpenBatches,
    OpenBatchesQuery,
)
from relais_orchestrator.api.files.routes import TAG
from relais_orchestrator.api.route import Access, Events, Header, ResponseSpec, Route
from relais_orchestrator.http.errors import ErrorResponse

ROUTES = [
    Route(
        method="POST",
        path="/v1/batches",
        handler=batches.create_batch,
        tag=TAG,
        summary="Run the requests of a file",
        description="The file is validated first: if a line is wrong, the batch has failed and nothing of it is run. "
        "Lines run when nothing else waits; each has one line in the output file or in the error file.",
        body=BatchRequest,
        example={
            "input_file_id": "file-abc",
            "endpoint": "/v1/chat/completions",
            "completion_window": "24h",
        },
        responses=(ResponseSpec(200, "The batch.", BatchObject),),
        errors=(FileNotKnown, TooManyBatches, FilesUnavailable),
    ),
    Route(
        method="GET",
        path="/v1/batches",
        handler=batches.list_batches,
        tag=TAG,
        summary="List the key's batches",
        query=BatchesQuery,
        responses=(ResponseSpec(200, "One page, the newest first.", BatchList),),
        errors=(InvalidRequest, BatchNotFound, FilesUnavailable),
    ),
    Route(
        method="GET",
        path="/v1/batches/{batch_id}",
        handler=batches.show_batch,
        tag=TAG,
        summary="See one batch",
        responses=(ResponseSpec(200, "The batch.", BatchObject),),
        errors=(BatchNotFound, FilesUnavailable),
    ),
    Route(
        method="GET",
        path="/v1/batches/{batch_id}/events",
        handler=stream_batch,
        tag=TAG,
        summary="Watch a batch",
        headers=(Header("Last-Event-ID", str, "The event that the client has seen last."),),
        responses=(
            ResponseSpec(
                200,
                "The events, until the batch has ended or the server stops.",
                events=Events(
                    "Each event is the batch as it is now, under the name of its status: at once, and whenever it has "
                    "changed, once a second at most. `batch_not_found` and `key_revoked` end the stream.",
                    (
                        *((status, BatchObject) for status in get_args(BatchStatus)),
                        ("batch_not_found", ErrorResponse),
                        ("key_revoked", ErrorResponse),
                    ),
                ),
            ),
            ResponseSpec(204, "The batch has ended, and the client has seen its end."),
        ),
        errors=(BatchNotFound, TooManyStreams, FilesUnavailable),
    ),
    Route(
        method="POST",
        path="/v1/batches/{batch_id}/cancel",
        handler=batches.cancel_batch,
        tag=TAG,
        summary="Cancel a batch",
        description="What has ended is in its files; what has not is in the error file as `batch_cancelled`.",
        responses=(ResponseSpec(200, "The batch, which is about to end.", BatchObject),),
        errors=(BatchNotFound, BatchEnded, FilesUnavailable),
    ),
    Route(
        method="GET",
        path="/v1/admin/batches",
        handler=batches.list_open_batches,
        tag=OPERATORS,
        summary="List what every key's batches do",
        access=Access.ADMIN,
        query=OpenBatchesQuery,
        responses=(
            ResponseSpec(200, "Batches that have not ended, the oldest first.", OpenBatches),
        ),
        errors=(InvalidRequest, FilesUnavailable),
    ),
]
