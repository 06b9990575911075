"""Processes of a run fork services from one that they share, and each ends its own."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from relais_testing.leftovers import MARK, marked
from relais_testing.prefork import Forked, Mother
from relais_testing.waiting import LIVENESS_S, block_until


@pytest.fixture
def mothers(tmp_path: Path) -> Iterator[tuple[Mother, Mother]]:
    """As two processes of a run have them."""
    one, other = (
        Mother(("http.server",), {MARK: os.environ[MARK]}, tmp_path / "socket") for _ in range(2)
    )
    yield one, other
    for each in (one, other):
        each.close()
    assert one.pid is not None
    parent = psutil.Process(one.pid)
    # It ends what they asked for as soon as it notices.
    block_until(lambda: not parent.children())
    os.kill(one.pid, signal.SIGKILL)
    os.waitpid(one.pid, 0)


def serve(mother: Mother, folder: Path) -> Forked:
    return mother.fork("http.server", ["0"], {}, folder / "log")


def test_one_process_forks_for_all_and_ends_what_each_asked_for(
    mothers: tuple[Mother, Mother], tmp_path: Path
) -> None:
    one, other = mothers
    first, second = serve(one, tmp_path), serve(other, tmp_path)
    assert one.pid == other.pid
    one.close()
    block_until(lambda: not psutil.pid_exists(first.pid))
    assert second.poll() is None
    second.kill()
    assert second.wait(LIVENESS_S) == -signal.SIGKILL


def test_forked_processes_are_found_by_their_sessions(
    mothers: tuple[Mother, Mother], tmp_path: Path
) -> None:
    one, other = mothers
    child, _ = serve(one, tmp_path), serve(other, tmp_path)
    assert {pid for pid, _ in marked("of no run", one.sessions)} == {child.pid}
    child.kill()
    child.wait(LIVENESS_S)
    assert one.sessions == {child.pid}, "what it left behind must be found"
    one.forget_ended()
    assert one.sessions == set()


def test_it_outlives_who_leaves_before_the_answer(
    mothers: tuple[Mother, Mother], tmp_path: Path
) -> None:
    one, other = mothers
    serve(one, tmp_path)
    assert one.pid is not None
    os.kill(one.pid, signal.SIGSTOP)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as asking:
        asking.connect(str(tmp_path / "socket"))
    os.kill(one.pid, signal.SIGCONT)
    assert serve(other, tmp_path).poll() is None
