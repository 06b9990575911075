"""Declarations of the files' routes."""

from __future__ import annotations

from relais_common.jobs.errors import (
    FileInUse,
    FileNotKnown,
    FileStorageFull,
    FilesUnavailable,
    FileTooLarge,
    InvalidRequest,
    RangeNotSatisfiable,
    ServerBusy,
    TooManyBytes,
)
from relais_orchestrator.api.files import handlers as files
from relais_orchestrator.api.files.schemas import (
    FileDeleted,
    FileList,
    FileObject,
    FilesQuery,
    FileUpload,
)
from relais_orchestrator.api.route import Header, ResponseSpec, Route

TAG = "Batches"
OCTETS = "application/octet-stream"
RANGE = Header("Range", str, "One range, as `bytes=0-1023`. What is none is ignored.")
CONTENT_RANGE = Header("Content-Range", str, "Which bytes these are, and of how many.")

ROUTES = [
    Route(
        method="POST",
        path="/v1/files",
        handler=files.upload_file,
        tag=TAG,
        summary="Upload a file",
        description="A batch's requests, one JSON object per line. Only the key that uploads a file sees it.",
        form=FileUpload,
        responses=(ResponseSpec(200, "The file.", FileObject),),
        errors=(FileTooLarge, FileStorageFull, FilesUnavailable),
    ),
    Route(
        method="GET",
        path="/v1/files",
        handler=files.list_files,
        tag=TAG,
        summary="List the key's files",
        query=FilesQuery,
        responses=(ResponseSpec(200, "One page.", FileList),),
        errors=(InvalidRequest, FileNotKnown, FilesUnavailable),
    ),
    Route(
        method="GET",
        path="/v1/files/{file_id}",
        handler=files.show_file,
        tag=TAG,
        summary="See one file",
        responses=(ResponseSpec(200, "The file.", FileObject),),
        errors=(FileNotKnown, FilesUnavailable),
    ),
    Route(
        method="GET",
        path="/v1/files/{file_id}/content",
        handler=files.download_file,
        tag=TAG,
        summary="Download a file",
        headers=(RANGE,),
        responses=(
            ResponseSpec(200, "Its bytes.", binary=OCTETS),
            ResponseSpec(206, "Those of the range.", binary=OCTETS, headers=(CONTENT_RANGE,)),
        ),
        errors=(FileNotKnown, RangeNotSatisfiable, TooManyBytes, ServerBusy, FilesUnavailable),
    ),
    Route(
        method="DELETE",
        path="/v1/files/{file_id}",
        handler=files.delete_file,
        tag=TAG,
        summary="Delete a file",
        responses=(ResponseSpec(200, "It is gone.", FileDeleted),),
        errors=(FileNotKnown, FileInUse, FilesUnavailable),
    ),
]
