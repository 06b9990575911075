"""`relais kpi` on a server: what it prints, what it exits with."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TypeVar

import pytest

from relais_common.insights.mongo import Database, MongoSettings, open_database
from relais_common.insights.store import ROLLUPS, STATE, TRACES
from relais_kpi.command import main
from relais_kpi.rolling.lock import hold_lock
from relais_testing.tcp_ports import free_port
from relais_testing.traces import make_document
from relais_testing.waiting import LIVENESS_S

Result = TypeVar("Result")


@dataclass
class Kpi:
    """The command, with a database that it can find."""

    settings: MongoSettings
    capsys: pytest.CaptureFixture[str]

    def run(self, *arguments: str) -> tuple[int, str, str]:
        """Exit code, standard output, standard error."""
        code = main(arguments)
        printed = self.capsys.readouterr()
        return code, printed.out, printed.err

    def do(self, work: Callable[[Database], Awaitable[Result]]) -> Result:
        async def connected() -> Result:
            async with open_database(self.settings) as database:
                return await work(database)

        return asyncio.run(connected())

    def count(self, collection: str) -> int:
        async def counted(database: Database) -> int:
            count: int = await database[collection].count_documents({})
            return count

        return self.do(counted)


@pytest.fixture
def kpi(
    mongo: MongoSettings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Kpi:
    monkeypatch.setenv("MONGODB_URL", mongo.url)
    monkeypatch.setenv("MONGODB_DATABASE", mongo.database)
    return Kpi(mongo, capsys)


def test_simulated_traces_are_rolled_up_once(kpi: Kpi) -> None:
    code, out, err = kpi.run("simulate", "--traces", "300", "--days", "2")
    assert (code, err) == (0, "")
    assert out.startswith("300 simulated traces written")

    code, out, err = kpi.run("rollup")
    assert (code, err) == (0, "")
    assert "from traces: 300" in out
    assert kpi.run("rollup")[1].startswith("hours rolled up: 0, from traces: 0;")
    assert kpi.run("rollup", "--rebuild", "--quiet") == (0, "", "")


def test_simulated_traces_stay_apart_from_real_ones(kpi: Kpi) -> None:
    async def put(database: Database) -> None:
        await database[TRACES].insert_one(make_document())

    kpi.do(put)
    code, out, err = kpi.run("simulate", "--traces", "10")
    assert (code, out) == (1, "")
    assert "real traces" in err
    assert kpi.count(TRACES) == 1
    assert kpi.run("simulate", "--traces", "10", "--days", "1", "--force")[0] == 0


def test_a_second_run_at_once_says_so_and_does_nothing(kpi: Kpi) -> None:
    async def seen(database: Database) -> tuple[int, str, str]:
        async with hold_lock(database, lambda: datetime.now(UTC)):
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "relais_kpi", "rollup"),
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
            out, err = await process.communicate()
            assert process.returncode is not None
            return process.returncode, out.decode(), err.decode()

    code, out, err = kpi.do(seen)
    assert (code, out) == (3, "")
    assert "is at work" in err
    assert kpi.count(ROLLUPS) == 0


def test_without_a_database_there_is_one_clear_line(
    kpi: Kpi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MONGODB_URL", f"mongodb://user:pass-word@127.0.0.1:{free_port()}")
    monkeypatch.setenv("MONGODB_TIMEOUT_S", "0.3")
    code, out, err = kpi.run("rollup")
    assert (code, out) == (1, "")
    assert err.startswith("relais kpi: MongoDB does not answer: ")
    assert err.count("\n") == 1
    assert "pass-word" not in err


def test_a_setting_that_is_missing_is_named(kpi: Kpi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MONGODB_URL")
    code, _, err = kpi.run("rollup")
    assert code == 2
    assert "MONGODB_URL is not set" in err


def test_a_terminated_run_gives_its_lock_back(kpi: Kpi) -> None:
    assert kpi.run("simulate", "--traces", "8000", "--days", "60", "--quiet")[0] == 0

    async def has_lock(database: Database) -> bool:
        return (
            await database[STATE].find_one({"expires_at": {"$gt": datetime.now(UTC)}}) is not None
        )

    def terminated() -> tuple[int, bytes]:
        """The exit code and the last words of a run that gets a SIGTERM."""
        process = subprocess.Popen(
            [sys.executable, "-m", "relais_kpi", "rollup", "--rebuild"],
            env=os.environ,
            stderr=subprocess.PIPE,
        )
        while not kpi.do(has_lock) and process.poll() is None:
            pass
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=LIVENESS_S)
        return process.returncode, err

    # Now and then one is done before it can be stopped.
    while (found := terminated())[0] == 0:
        pass
    code, err = found
    assert code == 128 + signal.SIGTERM, err
    assert b"the next run goes on" in err
    assert not kpi.do(has_lock)
    assert kpi.run("rollup")[0] == 0
