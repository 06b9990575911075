"""Query string of `GET /v1/kpis`. The response is `relais_common.insights.report.Report`."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from relais_common.insights.report import Axis

MAX_DAYS = 31


class KpisQuery(BaseModel):
    """A period of whole hours in UTC, with its breakdown and objectives."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    since: str | None = Field(
        default=None,
        max_length=40,
        description="A length before `until` (`24h`, `7d`), a day or a time; default: `24h`.",
    )
    until: str | None = Field(
        default=None,
        max_length=40,
        description="A length ago, a day (included) or a time; default: the end of the last hour that is over.",
    )
    by: Axis = Field(default=Axis.MODEL, description="What the rows tell apart.")
    slo: str = Field(
        default="ttft=1s,tpot=50ms,e2e=10s",
        max_length=100,
        description="Objectives for goodput: any of the three, in ms, s or min.",
    )
