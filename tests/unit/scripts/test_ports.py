"""Which ports a run of scripts/bootstrap.sh takes, and that it takes no other program for its own."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from relais_testing.tcp_ports import HOST, free_port
from stack import ports
from stack.model import Program, Run, Stage
from stack.probes import why_not_ready

SCRIPTS = Path(__file__).parents[3] / "scripts"


@pytest.fixture
def listening() -> Iterator[int]:
    """A server of this process, that says what Redis says."""
    with socket.create_server((HOST, 0)) as server:
        yield server.getsockname()[1]


def test_two_starts_at_once_choose_different_ports() -> None:
    start = free_port()
    choose = f"from stack import ports; print(ports.first_free({HOST!r}, {start}, ()))"

    mine = ports.first_free(HOST, start, ())
    another_s = subprocess.run(
        [sys.executable, "-c", choose],
        env={**os.environ, "PYTHONPATH": str(SCRIPTS)},
        capture_output=True,
        text=True,
        check=True,
    )

    assert mine >= start
    assert int(another_s.stdout) > mine


def test_port_is_its_listener_s_and_nobody_else_s(listening: int) -> None:
    assert ports.listens(os.getpid(), listening)
    assert not ports.listens(os.getppid(), listening)
    assert not ports.listens(os.getpid(), free_port())


def test_answer_of_another_program_is_no_sign_of_life(
    listening: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stack.probes.answers_ping", lambda *_: True)
    redis = Program("redis", "", Stage.REDIS, HOST, listening, "REDIS_PORT")
    run = Run("id", "", "", "", "model", (), (redis,))

    assert why_not_ready(run, redis, os.getpid()) is None
    assert why_not_ready(run, redis, os.getppid()) == f"another program answers on port {listening}"
