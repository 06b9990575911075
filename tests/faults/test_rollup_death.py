"""The KPI job killed with SIGKILL, again and again: the run that comes through leaves the numbers of the traces."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

from relais_common.insights.mongo import Database, MongoSettings, open_database
from relais_common.insights.rollups import Group, Rollup, hour_of, roll_up
from relais_common.insights.store import HOURS, ROLLUPS, STATE, TRACES
from relais_kpi.simulation.insert import insert_simulated
from relais_kpi.simulation.traffic import simulate
from relais_testing.mongo import MongoServer
from relais_testing.waiting import LIVENESS_S, wait_until

AT_WORK = 3


async def job(url: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "relais_kpi", "rollup", "--quiet"),
        env=os.environ | {"MONGODB_URL": url, "MONGODB_DATABASE": "test"},
    )


async def rollups(database: Database) -> dict[str, dict[str, Any]]:
    stored = await database[ROLLUPS].find({}, {"fence": 0}).to_list(None)
    return {one["_id"]: one for one in stored}


def expected(traces: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    found: dict[Group, Rollup] = {}
    roll_up(traces, found)
    return {group.id: rollup.to_document(group) for group, rollup in found.items()}


async def lock_ends(database: Database) -> None:
    """As a minute later."""
    await database[STATE].update_one({}, {"$set": {"expires_at": datetime.now(UTC)}})


async def test_a_killed_job_made_again_leaves_the_numbers_of_an_undisturbed_one(
    tmp_path: Path,
) -> None:
    random = Random(3)
    with MongoServer(tmp_path) as server:
        settings = MongoSettings(url=server.url, database="test", answer_timeout_s=LIVENESS_S)
        async with open_database(settings) as database:
            made = simulate(traces=4000, days=10, seed=1, until=hour_of(datetime.now(UTC)))
            await insert_simulated(database, made, seed=1)
            deaths = written = 0
            while deaths < 4:
                one = await job(server.url)
                await wait_until(partial(_is_held_or_over, database, one))
                # Somewhere within its work.
                await asyncio.sleep(random.uniform(0, 0.5))
                if one.returncode is not None:
                    if deaths:
                        break
                    await _forget(database)  # it was done before the kill came
                    continue
                one.kill()
                await one.wait()
                deaths += 1
                written = max(written, len(await rollups(database)))
                await lock_ends(database)
            assert deaths
            assert written

            assert await (await job(server.url)).wait() == 0

            traces = await database[TRACES].find().to_list(None)
            assert await rollups(database) == expected(traces)


async def test_right_after_a_kill_the_next_run_says_that_it_must_wait(tmp_path: Path) -> None:
    with MongoServer(tmp_path) as server:
        settings = MongoSettings(url=server.url, database="test")
        async with open_database(settings) as database:
            made = simulate(traces=2000, days=30, seed=1, until=hour_of(datetime.now(UTC)))
            await insert_simulated(database, made, seed=1)
            while True:
                one = await job(server.url)
                await wait_until(partial(_is_held_or_over, database, one))
                if one.returncode is None:
                    one.kill()
                await one.wait()
                if await _is_held(database):
                    break
                await _forget(database)  # it was done before the kill came

            assert await (await job(server.url)).wait() == AT_WORK
            await lock_ends(database)
            assert await (await job(server.url)).wait() == 0


async def _is_held_or_over(database: Database, run: asyncio.subprocess.Process) -> bool:
    return run.returncode is not None or await _is_held(database)


async def _is_held(database: Database) -> bool:
    soon = datetime.now(UTC) + timedelta(seconds=1)
    return await database[STATE].find_one({"expires_at": {"$gt": soon}}) is not None


async def _forget(database: Database) -> None:
    """As before the first run."""
    for collection in (ROLLUPS, HOURS, STATE):
        await database[collection].delete_many({})
