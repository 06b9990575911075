"""Children of a worker die with it, even when it is killed with -9."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from relais_llm_worker.parent_death import die_with_worker
from relais_testing.waiting import wait_until

TESTS = Path(__file__).parents[2]

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="asks the Linux kernel; elsewhere it does nothing"
)


@contextmanager
def family(method: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A process, and the id of the child it made."""
    with subprocess.Popen(
        [sys.executable, "-m", "relais_testing.mortal", method],
        cwd=TESTS,
        env={**os.environ, "PYTHONPATH": str(TESTS)},
        stdout=subprocess.PIPE,
        text=True,
    ) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        try:
            yield parent, child
        finally:
            parent.kill()
            if is_alive(child):
                with suppress(ProcessLookupError):
                    os.kill(child, signal.SIGKILL)


def is_alive(pid: int) -> bool:
    """Whether the process runs; one that only waits to be reaped does not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] not in ("Z", "X")


@pytest.mark.parametrize("method", ["spawn", "fork"])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
async def test_child_dies_with_its_parent(method: str, number: signal.Signals) -> None:
    with family(method) as (parent, child):
        assert is_alive(child)
        parent.send_signal(number)
        await wait_until(lambda: not is_alive(child))


async def test_child_that_asked_for_nothing_would_outlive_its_parent() -> None:
    """Or the test above would show nothing."""
    with family("fork-unguarded") as (parent, child):
        parent.kill()
        parent.wait()
        with pytest.raises(AssertionError):
            await wait_until(lambda: not is_alive(child), 0.5)


def test_plugin_does_nothing_in_the_worker_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    def unexpected(_: int) -> None:
        raise AssertionError("the worker would die with whoever started it")

    monkeypatch.setattr("relais_llm_worker.parent_death.die_with", unexpected)
    die_with_worker()
