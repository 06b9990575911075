"""Declarations of the batches' routes."""

from __future__ import annotations

from relais_common.jobs.errors import (
    BatchEnded,
    BatchNotFound,
    FileNotKnown,
    FilesUnavailable,
    InvalidRequest,
    TooManyBatches,
)
from relais_orchestrator.api.batches import handlers as batches
from relais_orchestrator.api.batches.schemas import (
    BatchesQuery,
    BatchList,
    BatchObject,
    BatchRequest,
)
from relais_orchestrator.api.files.routes import TAG
from relais_orchestrator.api.route import ResponseSpec, Route

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
        method="POST",
        path="/v1/batches/{batch_id}/cancel",
        handler=batches.cancel_batch,
        tag=TAG,
        summary="Cancel a batch",
        description="What has ended is in its files; what has not is in the error file as `batch_cancelled`.",
        responses=(ResponseSpec(200, "The batch, which is about to end.", BatchObject),),
        errors=(BatchNotFound, BatchEnded, FilesUnavailable),
    ),
]
