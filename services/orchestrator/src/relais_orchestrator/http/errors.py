"""The body of every error: OpenAI's error object."""

from __future__ import annotations

from typing import Annotated

from pydantic import ConfigDict, Field, with_config
from typing_extensions import TypedDict

_CLOSED = ConfigDict(extra="forbid")


@with_config(_CLOSED)
class ErrorObject(TypedDict):
    message: Annotated[str, Field(description="One sentence for a person.")]
    type: Annotated[str, Field(description="The error's family.")]
    param: Annotated[
        str | None, Field(description="The field, header or parameter at fault, as a dotted path.")
    ]
    code: Annotated[str | None, Field(description="A stable word for programs.")]


@with_config(_CLOSED)
class ErrorResponse(TypedDict):
    """An error."""

    error: ErrorObject
