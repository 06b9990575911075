"""`GET /v1/usage`: a key's usage by day and model; an admin may query other keys."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta

from aiohttp import web

from relais_common.jobs.errors import Forbidden, InvalidRequest
from relais_common.jobs.limits import USAGE_DAYS, DayUsage
from relais_orchestrator.api.callers import caller_of
from relais_orchestrator.api.parsing import parse_query
from relais_orchestrator.api.usage.schemas import (
    ALL_KEYS,
    Counts,
    DayCounts,
    UsageQuery,
    UsageResponse,
)
from relais_orchestrator.app_keys import PARTS
from relais_orchestrator.http.responses import json_response


async def usage(request: web.Request) -> web.Response:
    """Return usage of all declared models, including those that the key may no longer use."""
    caller = caller_of(request)
    query = parse_query(UsageQuery, request.query)
    key_id = query.key_id or caller.key_id
    if key_id != caller.key_id and not caller.may.admin:
        raise Forbidden("the usage of other keys needs a key with admin rights")
    since, until = _days(query)
    parts = request.app[PARTS]
    found: list[DayUsage] = []
    # Earlier days have expired, and future days have no data.
    today = datetime.now(UTC).date()
    first, last = max(since, today - timedelta(days=USAGE_DAYS)), min(until, today)
    for model in parts.settings.models:
        found += await parts.accounts.usage(
            model, since=first, until=last, key_id=None if key_id == ALL_KEYS else key_id
        )
    found.sort(key=lambda one: (one.date, one.model, one.key_id))
    body: UsageResponse = {
        "key_id": key_id,
        "since": since,
        "until": until,
        "usage": [_day_counts(one) for one in found],
        "total": _total(found),
    }
    return json_response(body)


def _days(query: UsageQuery) -> tuple[date, date]:
    today = datetime.now(UTC).date()
    since = query.since or query.until or today
    until = query.until or max(since, today)
    if since > until:
        raise InvalidRequest("since: it comes after until", param="since")
    return since, until


def _total(days: Sequence[DayUsage]) -> Counts:
    return {
        "requests": sum(one.requests for one in days),
        "completed": sum(one.completed for one in days),
        "failed": sum(one.failed for one in days),
        "cancelled": sum(one.cancelled for one in days),
        "expired": sum(one.expired for one in days),
        "input_tokens": sum(one.input_tokens for one in days),
        "output_tokens": sum(one.output_tokens for one in days),
        "cached_tokens": sum(one.cached_tokens for one in days),
    }


def _day_counts(one: DayUsage) -> DayCounts:
    return {"date": one.date, "model": one.model, "key_id": one.key_id, **_total([one])}
