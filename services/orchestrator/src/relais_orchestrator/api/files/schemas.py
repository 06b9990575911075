"""Form, query string and responses of `/v1/files`, in OpenAI's names."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, with_config
from pydantic.json_schema import SkipJsonSchema
from typing_extensions import TypedDict

from relais_orchestrator.api.schemas.closed import CLOSED
from relais_orchestrator.files.store import StoredFile

MAX_PAGE = 10_000
MAX_FILENAME = 255
MIN_KEPT_S, MAX_KEPT_S = 3600, 30 * 24 * 3600
PURPOSES = ("batch",)
KeptSeconds = Annotated[int, Field(ge=MIN_KEPT_S, le=MAX_KEPT_S)]


class ExpiresAfter(BaseModel):
    """When a file expires."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    anchor: Literal["created_at"]
    seconds: KeptSeconds = Field(description="After the file's creation.")


class FileUpload(BaseModel):
    """`POST /v1/files`, as `multipart/form-data`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    file: Annotated[
        str,
        Field(json_schema_extra={"format": "binary"}, description="The bytes, with a filename."),
    ]
    purpose: Literal["batch"]
    expires_after: ExpiresAfter | SkipJsonSchema[None] = Field(
        default=None,
        description="As JSON, or as the fields `expires_after[anchor]` and `expires_after[seconds]`.",
    )


class FilesQuery(BaseModel):
    """Which files to list."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    after: str | None = Field(
        default=None, min_length=1, max_length=64, description="The last file of the page before."
    )
    limit: int = Field(default=MAX_PAGE, ge=1, le=MAX_PAGE, description="Files per page.")
    order: Literal["asc", "desc"] = Field(default="desc", description="By the time of creation.")
    purpose: str | None = Field(
        default=None, min_length=1, max_length=64, description="Only files of this purpose."
    )


@with_config(CLOSED)
class FileObject(TypedDict):
    id: str
    object: Literal["file"]
    bytes: int
    created_at: int
    expires_at: int
    filename: str
    purpose: str
    status: Annotated[Literal["processed"], Field(description="Always; OpenAI's is deprecated.")]


@with_config(CLOSED)
class FileList(TypedDict):
    object: Literal["list"]
    data: list[FileObject]
    first_id: str | None
    last_id: str | None
    has_more: bool


@with_config(CLOSED)
class FileDeleted(TypedDict):
    id: str
    object: Literal["file"]
    deleted: Literal[True]


def file_object(file: StoredFile) -> FileObject:
    """Return a file as OpenAI's API shows it."""
    return {
        "id": file.file_id,
        "object": "file",
        "bytes": file.size_bytes,
        "created_at": int(file.created_at.timestamp()),
        "expires_at": int(file.expires_at.timestamp()),
        "filename": file.filename,
        "purpose": file.purpose,
        "status": "processed",
    }
