"""`GET /v1/kpis` over a database with rollups; every answer is held to the OpenAPI document."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import orjson
import pytest

from relais_common.insights.mongo import Database, MongoSettings
from relais_common.insights.periods import parse_period
from relais_common.insights.report import Axis
from relais_common.insights.rollups import hour_of
from relais_common.insights.store import TRACES, read_report
from relais_kpi.rolling.job import roll_up_new
from relais_kpi.simulation.insert import insert_simulated
from relais_kpi.simulation.traffic import simulate
from relais_testing.kpis import OBJECTIVES
from relais_testing.mongo import MongoServer
from relais_testing.stack import Front, Stack, chat_request
from relais_testing.waiting import wait_until

NOW = datetime.now(UTC)


@pytest.fixture
async def stack(redis_url: str) -> AsyncIterator[Stack]:
    stack = await Stack.open(redis_url)
    yield stack
    await stack.close()


@pytest.fixture
async def front(stack: Stack, mongo: MongoSettings) -> Front:
    return await stack.front(MONGODB_URL=mongo.url, MONGODB_DATABASE=mongo.database)


async def fill(database: Database) -> None:
    made = simulate(traces=400, days=2, seed=1, until=hour_of(NOW))
    await insert_simulated(database, made, seed=1)
    await roll_up_new(database, now=lambda: NOW, kept=timedelta(days=730))


async def get(front: Front, query: str = "", **headers: str) -> tuple[int, dict[str, Any]]:
    async with front.get(f"/v1/kpis{query}", headers=headers) as response:
        return response.status, await response.json()


@pytest.mark.parametrize("by", Axis)
async def test_figures_are_those_of_the_report(front: Front, database: Database, by: Axis) -> None:
    await fill(database)

    status, body = await get(front, f"?since=30h&by={by}")

    assert status == 200
    period = parse_period("30h", None, now=datetime.now(UTC))
    report = await read_report(database, period, by=by, objectives=OBJECTIVES)
    assert body == json.loads(orjson.dumps(report))
    assert body["total"]["requests"] > 100


async def test_before_the_first_rollup_there_is_nothing_and_no_error(front: Front) -> None:
    status, body = await get(front)

    assert status == 200
    assert body["total"]["requests"] == 0
    assert body["rolled_up_to"] is None


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ("?since=yesterday", "since"),
        ("?until=2026-13-01", "until"),
        ("?since=2026-11-02&until=2026-11-01T00:00", "since"),
        ("?since=32d", "since"),
        ("?slo=ttft", "slo"),
        ("?by=colour", "by"),
        ("?format=html", "format"),
    ],
)
async def test_what_is_wrong_is_named(front: Front, query: str, param: str) -> None:
    status, body = await get(front, query)

    assert status == 400
    assert body["error"]["param"] == param


async def test_without_a_database_the_answer_is_503(stack: Stack) -> None:
    status, body = await get(await stack.front())

    assert status == 503
    assert body["error"]["code"] == "kpis_unavailable"


async def test_a_database_that_is_away_is_a_503_and_harms_nothing_else(
    stack: Stack, tmp_path: Path
) -> None:
    with MongoServer(tmp_path) as server:
        url = server.url
    front = await stack.front(MONGODB_URL=url, MONGODB_TIMEOUT_S="0.2")

    status, body = await get(front)

    assert status == 503
    assert body["error"]["code"] == "kpis_unavailable"
    assert url not in json.dumps(body)
    async with front.get("/v1/models") as response:
        assert response.status == 200


async def test_it_takes_an_operators_key(stack: Stack, tmp_path: Path) -> None:
    keys = tmp_path / "keys.json"
    keys.write_text(
        json.dumps({"ops": {"key": "an-operators-key", "admin": True}, "client": "a-clients-key"})
    )
    keys.chmod(0o600)
    front = await stack.front(ENV="staging", API_KEYS=str(keys))

    assert (await get(front, Authorization="Bearer a-clients-key"))[0] == 403
    assert (await get(front, Authorization="Bearer an-operators-key"))[0] == 503
    assert (await get(front))[0] == 401


async def test_requests_that_were_served_are_in_the_figures(
    stack: Stack, front: Front, database: Database
) -> None:
    """The whole way: accepted, answered, traced, rolled up, shown."""
    await stack.worker()
    for number in range(3):
        channel_id = await front.submit(chat_request(f"hello {number}"))
        await wait_until(partial(front.is_terminal, channel_id))

    async def written() -> bool:
        return await database[TRACES].count_documents({}) == 3

    await wait_until(written)
    await roll_up_new(database, now=lambda: datetime.now(UTC), kept=timedelta(days=730))

    soon = datetime.now(UTC) + timedelta(hours=1)
    status, body = await get(front, f"?since=3h&until={soon:%Y-%m-%dT%H:%M}&by=key")

    assert status == 200
    total = body["total"]
    assert (total["requests"], total["completed"], total["success_rate"]) == (3, 3, 1.0)
    assert total["output_tokens"] > 0
    assert total["ttft"]["count"] == total["e2e"]["count"] == total["queue"]["count"] == 3
    assert body["rolled_up_to"] is not None
