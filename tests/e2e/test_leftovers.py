"""Whatever way a run of tests ends, no process that it started lives on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).parents[2]
LIVENESS_S = 100.0

# A process with a child of its own, in a session of its own, beside a server that overwrites its environment.
TEST = """
import pathlib, subprocess, sys, time
from relais_testing.valkey import ValkeyServer

FAMILY = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; time.sleep(1000)'])"

def test_it():
    # An orphan, as a daemon is.
    start = ["sh", "-c", '"$@" >/dev/null 2>&1 & echo $!', "sh", sys.executable, "-c", FAMILY]
    family = int(subprocess.run(start, stdout=subprocess.PIPE, start_new_session=True).stdout)
    (folder := pathlib.Path("redis").absolute()).mkdir()
    server = ValkeyServer(folder)
    server.start()
    pathlib.Path("pids").write_text(f"{family} {server.pid}")
    {then}
"""


class InnerRun:
    """pytest over one test, in a folder of its own, with this repository's conftest."""

    def __init__(self, folder: Path, then: str, *options: str) -> None:
        self._folder = folder
        impatient = "\nleftovers.GRACE_S = 1.0\n"
        (folder / "conftest.py").write_text((ROOT / "tests/conftest.py").read_text() + impatient)
        (folder / "test_it.py").write_text(TEST.replace("{then}", then))
        (folder / "pytest.ini").write_text(
            f"[pytest]\ntimeout = {LIVENESS_S}\nasyncio_mode = auto\n"
        )
        with (folder / "output").open("wb") as output:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "pytest", "-p", "no:schemathesis"),
                    *("-p", "no:cacheprovider", *options),
                ],
                cwd=folder,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                # What a shell starts in the background is deaf to Ctrl-C, and so is all below it.
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            )

    def started(self) -> list[psutil.Process]:
        """What the test started, once it has, and all below it."""
        pids = self._folder / "pids"
        wait_until(lambda: pids.exists() and len(pids.read_text().split()) == 2, self)
        family, server = (psutil.Process(int(pid)) for pid in pids.read_text().split())
        wait_until(lambda: len(family.children()) == 1, self)
        return [family, server, *family.children()]

    @property
    def output(self) -> str:
        return (self._folder / "output").read_text()


def wait_until(condition: Callable[[], bool], run: InnerRun) -> None:
    end = time.monotonic() + LIVENESS_S
    while not condition():
        assert time.monotonic() < end, run.output
        time.sleep(0.02)


def gone(processes: list[psutil.Process]) -> bool:
    return not any(one.is_running() and one.status() != psutil.STATUS_ZOMBIE for one in processes)


@pytest.fixture
def inner_run(tmp_path: Path) -> Iterator[Callable[..., InnerRun]]:
    runs: list[InnerRun] = []

    def start(then: str, *options: str) -> InnerRun:
        runs.append(InnerRun(tmp_path, then, *options))
        return runs[-1]

    yield start
    for run in runs:
        run.process.kill()
        run.process.wait()


@pytest.mark.parametrize("options", [(), ("-n", "1")], ids=["one process", "xdist"])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_run_that_is_ended_by_a_signal_leaves_no_process(
    inner_run: Callable[..., InnerRun], number: int, options: tuple[str, ...]
) -> None:
    run = inner_run("time.sleep(1000)", *options)
    started = run.started()

    os.kill(run.process.pid, number)

    run.process.wait(LIVENESS_S)
    wait_until(lambda: gone(started), run)


OVER = "import signal; signal.setitimer(signal.ITIMER_REAL, 0.1); time.sleep(1000)"
"""Its timeout, which is a signal by this timer, comes at once."""


@pytest.mark.parametrize("then", ["assert False", OVER], ids=["failed", "out of time"])
def test_a_failed_test_is_named_at_once_and_leaves_no_process(
    inner_run: Callable[..., InnerRun], then: str
) -> None:
    run = inner_run(then)
    started = run.started()

    assert run.process.wait(LIVENESS_S) == 1
    wait_until(lambda: gone(started), run)
    assert "the test left processes behind" in run.output
    named = run.output.index("FAILED test_it.py::test_it (call) ")
    assert named < run.output.index("= FAILURES =")


def test_a_test_that_passes_and_leaves_a_process_fails(
    inner_run: Callable[..., InnerRun],
) -> None:
    run = inner_run("pass")
    started = run.started()

    assert run.process.wait(LIVENESS_S) == 1
    wait_until(lambda: gone(started), run)
    assert "the test left processes behind" in run.output
