"""Query string and response of `GET /v1/usage`."""

from __future__ import annotations

import re
from datetime import date
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, with_config
from pydantic_core import PydanticCustomError
from typing_extensions import TypedDict

from relais_orchestrator.api.schemas.closed import CLOSED

ALL_KEYS = "*"
_DAY = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)


def _is_written_as_a_day(value: Any) -> Any:
    # pydantic would also accept seconds since the epoch.
    if isinstance(value, str) and not _DAY.fullmatch(value):
        raise PydanticCustomError("date_parsing", "a date is written as YYYY-MM-DD")
    return value


Day = Annotated[date, BeforeValidator(_is_written_as_a_day)]


class UsageQuery(BaseModel):
    """A range of days in UTC, both ends included."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    since: Day | None = Field(default=None, description="YYYY-MM-DD; default: today, or `until`.")
    until: Day | None = Field(default=None, description="YYYY-MM-DD; default: today, or `since`.")
    key_id: str | None = Field(
        default=None,
        min_length=1,
        max_length=128,
        description="For admins: another client's name, or `*` for all; default: the key's own.",
    )


@with_config(CLOSED)
class Counts(TypedDict):
    requests: int
    completed: int
    failed: int
    cancelled: int
    expired: int
    input_tokens: Annotated[int, Field(description="Also of requests that did not complete.")]
    output_tokens: Annotated[int, Field(description="Also of requests that did not complete.")]
    cached_tokens: Annotated[int, Field(description="Those of the input that needed no work.")]


@with_config(CLOSED)
class DayCounts(Counts):
    date: date
    model: str
    key_id: str


@with_config(CLOSED)
class UsageResponse(TypedDict):
    """The usage of one key, or of all keys (`*`)."""

    key_id: str
    since: date
    until: date
    usage: list[DayCounts]
    total: Counts
