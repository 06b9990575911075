"""The priority that a request may ask for."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, WithJsonSchema
from pydantic_core import PydanticCustomError

from relais_common.jobs.job import Priority
from relais_orchestrator.api.schemas.nulls import OrNull

_ALLOWED = [one.value for one in Priority if one is not Priority.BATCH]


def _is_no_batch(priority: Priority) -> Priority:
    if priority is Priority.BATCH:
        raise PydanticCustomError("enum", "only lines of batches have it; see /v1/batches")
    return priority


RequestPriority = OrNull[
    Annotated[
        Priority, AfterValidator(_is_no_batch), WithJsonSchema({"type": "string", "enum": _ALLOWED})
    ]
]
